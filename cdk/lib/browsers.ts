/** The browser containers: the cluster, the task that is started for each, and who may start it. */
import { CfnDeletionPolicy, Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Construct } from 'constructs';

import type { Home } from './home.js';
import { acknowledgeTask, image, platform } from './images.js';
import type { Network } from './network.js';
import { type Permission, allow } from './permissions.js';
import type { Settings } from './settings.js';

/** Where a container is spoken to. Anywhere else any port would do; a security group has to name it. */
const PORT = 8080;
const CONTAINER = 'browser';
/** The most that Fargate allows, and what Spot gives from its warning on. */
const STOP_TIMEOUT = Duration.seconds(120);
/** How long its sessions go on when it is told to end. Then it needs most of what is left to store what they leave. */
const DRAIN = Duration.seconds(80);
/** A container that misses three is lost. The function must live longer than that: see control-plane.ts. */
export const HEARTBEAT = Duration.seconds(5);

export class Browsers extends Construct {
  readonly cluster: ecs.Cluster;
  readonly log: logs.LogGroup;
  private readonly task: ecs.FargateTaskDefinition;
  private readonly group: ec2.SecurityGroup;

  constructor(
    scope: Construct,
    id: string,
    private readonly network: Network,
    private readonly settings: Settings,
  ) {
    super(scope, id);
    const { browsers } = settings;
    this.cluster = new ecs.Cluster(this, 'Cluster', {
      vpc: network.vpc,
      enableFargateCapacityProviders: true,
      containerInsightsV2: settings.containerInsights ? ecs.ContainerInsights.ENABLED : ecs.ContainerInsights.DISABLED,
    });
    if (!settings.containerInsights) {
      Validations.of(this.cluster).acknowledge({
        id: 'AwsSolutions-ECS4',
        reason: 'It is paid for by the task, and what matters of the fleet the function tells. On in prod.',
      });
    }
    this.group = new ec2.SecurityGroup(this, 'Group', {
      vpc: network.vpc,
      description: 'Browsers: they open what they are told to, and only the control plane opens them',
      // Pages are anywhere. What in this network they must not reach lets in only whom it knows.
      allowAllOutbound: true,
    });
    this.log = new logs.LogGroup(this, 'Log', { retention: settings.logDays, removalPolicy: RemovalPolicy.DESTROY });
    this.task = new ecs.FargateTaskDefinition(this, 'Task', {
      // One name for all revisions: the permission to start it is for that name.
      family: `${Stack.of(this).stackName}-browser`,
      cpu: browsers.cpu,
      memoryLimitMiB: browsers.memoryMiB,
      runtimePlatform: platform(settings.architecture),
      // It can do nothing. Whoever drives a browser might come by it.
      taskRole: new iam.Role(this, 'Role', {
        assumedBy: new iam.ServicePrincipal('ecs-tasks.amazonaws.com'),
        description: 'Browser containers: no permissions, and none needed',
      }),
    });
    // A proxy that is being replaced starts containers of the revision it was told of, for as long as it has sockets.
    const definition = this.task.node.defaultChild as ecs.CfnTaskDefinition;
    definition.cfnOptions.updateReplacePolicy = CfnDeletionPolicy.RETAIN;
    definition.cfnOptions.deletionPolicy = CfnDeletionPolicy.DELETE;
    this.task.addContainer(CONTAINER, {
      containerName: CONTAINER,
      image: image('browser', settings.architecture),
      portMappings: [{ containerPort: PORT }],
      stopTimeout: STOP_TIMEOUT,
      logging: ecs.LogDrivers.awsLogs({ logGroup: this.log, streamPrefix: 'browser' }),
      // Who it is, its token and where to ask for work it is told when it is started.
      environment: {
        PORT: String(PORT),
        DRAIN_SECONDS: String(DRAIN.toSeconds()),
        LOG_FORMAT: 'json',
        RUST_LOG: 'info',
      },
      ulimits: [{ name: ecs.UlimitName.NOFILE, softLimit: 65_535, hardLimit: 65_535 }],
      linuxParameters: withoutNeedlessCapabilities(this),
    });
    acknowledgeTask(this.task);
  }

  /** The permission to start and stop containers, the way to them, and how many there are to be. */
  grantLaunch(home: Home): void {
    const { browsers } = this.settings;
    for (const permission of this.permissions()) allow(home.role, permission);
    home.connections.allowTo(this.group, ec2.Port.tcp(PORT), 'browsers');
    home.variables.set(this, {
      ECS_CLUSTER_ARN: this.cluster.clusterArn,
      ECS_TASK_DEFINITION_ARN: this.task.taskDefinitionArn,
      ECS_CONTAINER_NAME: CONTAINER,
      ECS_CAPACITY_PROVIDERS: browsers.capacityProviders,
      SUBNET_IDS: this.network.vpc.selectSubnets(this.network.tasks).subnetIds.join(','),
      SECURITY_GROUP_ID: this.group.securityGroupId,
      ASSIGN_PUBLIC_IP: String(this.network.publicTasks),
      MAX_CONTAINERS: String(browsers.maxContainers),
      MIN_CONTAINERS: String(browsers.minContainers),
      MAX_SESSIONS_PER_CONTAINER: String(browsers.sessionsPerContainer),
      WARM_SLOTS: String(browsers.warmSlots),
      WARM_BROWSERS: String(browsers.warmBrowsers),
      CONTAINER_IDLE_SECONDS: String(browsers.idleSeconds),
      HEARTBEAT_SECONDS: String(HEARTBEAT.toSeconds()),
    });
  }

  private permissions(): Permission[] {
    const inCluster = { ArnEquals: { 'ecs:cluster': this.cluster.clusterArn } };
    const arn = (resource: string, resourceName: string) =>
      Stack.of(this).formatArn({ service: 'ecs', resource, resourceName });
    const tasks = arn('task', `${this.cluster.clusterName}/*`);
    return [
      {
        actions: ['ecs:RunTask'],
        resources: [arn('task-definition', `${this.task.family}:*`)],
        conditions: inCluster,
        why: 'Any revision: while a new one is rolled out, some still start the one before.',
      },
      {
        actions: ['ecs:StopTask', 'ecs:DescribeTasks'],
        resources: [tasks],
        conditions: inCluster,
        why: 'All tasks of this one cluster: they come and go.',
      },
      {
        actions: ['ecs:ListTasks'],
        resources: ['*'],
        conditions: inCluster,
        why: 'It knows no narrower resource: the cluster is a condition.',
      },
      {
        actions: ['ecs:TagResource'],
        resources: [tasks],
        conditions: { StringEquals: { 'ecs:CreateAction': 'RunTask' } },
        why: 'All tasks of this one cluster, and only when they are started.',
      },
      {
        actions: ['iam:PassRole'],
        resources: [this.task.taskRole.roleArn, this.task.obtainExecutionRole().roleArn],
        conditions: { StringEquals: { 'iam:PassedToService': 'ecs-tasks.amazonaws.com' } },
      },
    ];
  }
}

/**
 * Of what Docker gives a container, those that the agent keeps browsers apart with stay, and those that the image's
 * program is marked with must: without them it would not start.
 */
function withoutNeedlessCapabilities(scope: Construct): ecs.LinuxParameters {
  const parameters = new ecs.LinuxParameters(scope, 'Linux');
  parameters.dropCapabilities(
    ecs.Capability.AUDIT_WRITE,
    ecs.Capability.FOWNER,
    ecs.Capability.FSETID,
    ecs.Capability.MKNOD,
    ecs.Capability.NET_BIND_SERVICE,
    ecs.Capability.NET_RAW,
    ecs.Capability.SETFCAP,
    ecs.Capability.SETPCAP,
    ecs.Capability.SYS_CHROOT,
  );
  return parameters;
}
