/** Permissions of whatever runs the control plane, each with its reason if it is wider than one resource. */
import { Stack, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import type { IConstruct } from 'constructs';

export interface Permission extends iam.PolicyStatementProps {
  /** Why a resource with a star in it can be no narrower. */
  why?: string;
}

/** `role` is whose permission it is; the reason is told to cdk-nag there. */
export function allow(role: iam.IGrantable & IConstruct, { why, ...statement }: Permission): void {
  role.grantPrincipal.addToPrincipalPolicy(new iam.PolicyStatement(statement));
  const wide = (statement.resources ?? [])
    .map((arn) => flat(Stack.of(role).resolve(arn)))
    .filter((arn) => arn.includes('*'));
  for (const arn of wide) {
    if (!why) throw new Error(`${arn}: say why that cannot be narrower`);
    Validations.of(role).acknowledge({ id: `AwsSolutions-IAM5[Resource::${arn}]`, reason: why });
  }
}

/** A name that CloudFormation puts together, as cdk-nag writes it: `arn:<AWS::Partition>:ecs:...`. */
function flat(value: unknown): string {
  if (typeof value === 'string') return value;
  const [[kind, inner] = ['', undefined]] = Object.entries(value as Record<string, unknown>);
  if (kind === 'Ref') return `<${String(inner)}>`;
  if (kind === 'Fn::GetAtt') return `<${(inner as string[]).join('.')}>`;
  if (kind === 'Fn::Join') {
    const [separator, parts] = inner as [string, unknown[]];
    return parts.map(flat).join(separator);
  }
  throw new Error(`a name made by ${kind} is not known here`);
}
