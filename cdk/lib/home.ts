/**
 * Whatever runs the control plane: the function, and the service of proxies. Both are the same program and are told the
 * same, so each construct that they need has one method that gives the permission, the way through the network and
 * the variables together (`connect`, `grantRead`, `grantLaunch`, ...), for either of them.
 */
import type { IConnectable } from 'aws-cdk-lib/aws-ec2';
import type { IRole } from 'aws-cdk-lib/aws-iam';
import type { Construct } from 'constructs';

export interface Home extends IConnectable {
  /** What it may do in AWS. */
  readonly role: IRole;
  readonly variables: Variables;
}

/** The environment of one program, and who said what of it. */
export class Variables {
  readonly setBy = new Map<string, string>();

  constructor(private readonly add: (name: string, value: string) => unknown) {}

  /** Each variable is the affair of one construct: who sets it a second time is told so. */
  set(by: Construct, values: Record<string, string>): void {
    for (const [name, value] of Object.entries(values)) {
      const before = this.setBy.get(name);
      if (before) throw new Error(`${name} is set by ${before}, and again by ${by.node.path}`);
      this.setBy.set(name, by.node.path);
      this.add(name, value);
    }
  }
}
