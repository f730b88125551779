/** Where everything runs, and how it gets out. What may reach what is said by what is reached. */
import { RemovalPolicy, Validations } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Construct } from 'constructs';

import type { Home } from './home.js';
import type { ExistingNetwork, NetworkSettings } from './settings.js';

export class Network extends Construct {
  readonly vpc: ec2.IVpc;
  /** For the function and Redis. */
  readonly inside: ec2.SubnetSelection;
  /** For tasks, which need the internet. */
  readonly tasks: ec2.SubnetSelection;
  /** Whether tasks need a public address of their own for that. */
  readonly publicTasks: boolean;
  private readonly endpoints?: ec2.SecurityGroup;

  constructor(scope: Construct, id: string, settings: NetworkSettings, logDays: number) {
    super(scope, id);
    this.publicTasks = settings.egress === 'endpoints';
    const isolated = this.publicTasks && !settings.existing;
    const privately = isolated ? ec2.SubnetType.PRIVATE_ISOLATED : ec2.SubnetType.PRIVATE_WITH_EGRESS;
    this.vpc = settings.existing ? this.found(settings.existing) : this.made(settings, privately, logDays);
    this.inside = { subnetType: privately };
    this.tasks = { subnetType: this.publicTasks ? ec2.SubnetType.PUBLIC : privately };
    if (this.publicTasks) this.endpoints = this.withEndpoints();
  }

  private found(existing: ExistingNetwork): ec2.IVpc {
    Validations.of(this).acknowledge({
      id: 'Annotation::@aws-cdk/aws-ec2:noSubnetRouteTableId',
      reason: 'Nothing here needs to know the route tables of a network that is there already.',
    });
    return ec2.Vpc.fromVpcAttributes(this, 'Vpc', existing);
  }

  private made(settings: NetworkSettings, privately: ec2.SubnetType, logDays: number): ec2.Vpc {
    const vpc = new ec2.Vpc(this, 'Vpc', {
      ipAddresses: ec2.IpAddresses.cidr('10.60.0.0/16'),
      // As many as a load balancer and a cache of ElastiCache want. More would be paid for in endpoints and gateways.
      maxAzs: 2,
      // Nothing of ours is in the default group. To empty it would take a function of its own.
      restrictDefaultSecurityGroup: false,
      natGateways: this.publicTasks ? 0 : settings.natGateways,
      subnetConfiguration: [
        { name: 'Public', subnetType: ec2.SubnetType.PUBLIC, cidrMask: 20 },
        // Each task has an address of its own.
        { name: 'Private', subnetType: privately, cidrMask: 19 },
      ],
      // A task's image comes from S3: this way it costs nothing to load.
      gatewayEndpoints: { S3: { service: ec2.GatewayVpcEndpointAwsService.S3 } },
    });
    // What was refused tells of mistakes, and of browsers that look around. All of it would cost more than it tells.
    vpc.addFlowLog('Refused', {
      trafficType: ec2.FlowLogTrafficType.REJECT,
      destination: ec2.FlowLogDestination.toCloudWatchLogs(
        new logs.LogGroup(this, 'RefusedLog', { retention: logDays, removalPolicy: RemovalPolicy.DESTROY }),
      ),
    });
    return vpc;
  }

  /** The way to AWS's own services. */
  connect(home: Home): void {
    // Their names mean the endpoints for everybody in the network, also for those who could reach the others.
    if (this.endpoints) home.connections.allowTo(this.endpoints, ec2.Port.HTTPS, 'AWS, by its endpoints');
    home.connections.allowTo(ec2.Peer.anyIpv4(), ec2.Port.HTTPS, 'AWS');
  }

  /** For the function, where it has no other way out. */
  private withEndpoints(): ec2.SecurityGroup {
    const group = new ec2.SecurityGroup(this, 'Endpoints', {
      vpc: this.vpc,
      description: 'Endpoints of AWS services, for the control plane',
      allowAllOutbound: false,
    });
    const services = {
      SecretsManager: ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
      Ecs: ec2.InterfaceVpcEndpointAwsService.ECS,
    };
    for (const [name, service] of Object.entries(services)) {
      const options = { vpc: this.vpc, service, subnets: this.inside, securityGroups: [group], open: false };
      new ec2.InterfaceVpcEndpoint(this, name, options);
    }
    return group;
  }
}
