/** The CDP proxies: the same program as a server on Fargate, behind a load balancer that ends TLS. */
import { Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as acm from 'aws-cdk-lib/aws-certificatemanager';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as elb from 'aws-cdk-lib/aws-elasticloadbalancingv2';
import type * as iam from 'aws-cdk-lib/aws-iam';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as route53 from 'aws-cdk-lib/aws-route53';
import { LoadBalancerTarget } from 'aws-cdk-lib/aws-route53-targets';
import { Construct } from 'constructs';

import { type Home, Variables } from './home.js';
import { acknowledgeTask, image, platform } from './images.js';
import type { Network } from './network.js';
import { scaleByConnections } from './proxy-scaling.js';
import type { ProxySettings, Settings } from './settings.js';

const PORT = 8080;
/**
 * The most that the balancer knows. The proxy pings each client every 20 s, so this is not what ends sockets. To the
 * balancer it holds for its idle connections to proxies, too.
 */
const IDLE_TIMEOUT = Duration.seconds(4_000);
/** How long a proxy keeps those: longer, or a request that meets a closing one is answered 502. */
const KEEP_ALIVE = Duration.seconds(4_060);
/**
 * The most there is: how long the sockets of a proxy that is replaced may go on. New ones go to its successors, and
 * ECS stops the task when the last one has closed, or when this is over.
 */
const DEREGISTRATION_DELAY = Duration.seconds(3_600);
/** The most that Fargate allows between SIGTERM and SIGKILL. */
const STOP_TIMEOUT = Duration.seconds(120);
/** How long sockets may go on after SIGTERM, which comes when the balancer has let go of them. Less than that. */
const DRAIN = Duration.seconds(110);

export class Proxy extends Construct implements Home {
  readonly balancer: elb.ApplicationLoadBalancer;
  readonly targets: elb.ApplicationTargetGroup;
  readonly service: ecs.FargateService;
  readonly variables: Variables;
  readonly connections: ec2.Connections;
  readonly role: iam.IRole;
  readonly log: logs.LogGroup;

  constructor(
    scope: Construct,
    id: string,
    network: Network,
    cluster: ecs.ICluster,
    settings: Settings,
    proxy: ProxySettings,
  ) {
    super(scope, id);
    this.log = new logs.LogGroup(this, 'Log', { retention: settings.logDays, removalPolicy: RemovalPolicy.DESTROY });
    const task = this.task(settings, proxy);
    const container = this.program(task, settings);
    this.variables = new Variables((name, value) => container.addEnvironment(name, value));
    this.variables.set(this, {
      BIND: '0.0.0.0',
      PORT: String(PORT),
      DRAIN_SECONDS: String(DRAIN.toSeconds()),
      KEEP_ALIVE_SECONDS: String(KEEP_ALIVE.toSeconds()),
      LOG_FORMAT: 'json',
      RUST_LOG: 'info',
    });
    this.role = task.taskRole;
    const group = new ec2.SecurityGroup(this, 'Group', {
      vpc: network.vpc,
      description: 'Proxies: only their load balancer reaches them',
      allowAllOutbound: false,
    });
    this.service = new ecs.FargateService(this, 'Service', {
      cluster,
      taskDefinition: task,
      desiredCount: proxy.minTasks,
      vpcSubnets: network.tasks,
      assignPublicIp: network.publicTasks,
      securityGroups: [group],
      // Successors first: a proxy goes only when others have taken its place.
      minHealthyPercent: 100,
      maxHealthyPercent: 200,
      circuitBreaker: { rollback: true },
      // No proxy, and so no socket, has to go only because there are more in the other zone.
      availabilityZoneRebalancing: ecs.AvailabilityZoneRebalancing.DISABLED,
      healthCheckGracePeriod: Duration.seconds(60),
    });
    this.connections = this.service.connections;
    this.balancer = this.loadBalancer(network, settings.keepData);
    this.targets = this.listen(network, proxy);
    this.targets.addTarget(this.service);
    scaleByConnections(this, proxy);
    if (proxy.hostedZone) this.addRecord(proxy.domain, proxy.hostedZone);
  }

  private task(settings: Settings, proxy: ProxySettings): ecs.FargateTaskDefinition {
    const task = new ecs.FargateTaskDefinition(this, 'Task', {
      family: `${Stack.of(this).stackName}-proxy`,
      cpu: proxy.cpu,
      memoryLimitMiB: proxy.memoryMiB,
      runtimePlatform: platform(settings.architecture),
    });
    acknowledgeTask(task);
    return task;
  }

  private program(task: ecs.FargateTaskDefinition, settings: Settings): ecs.ContainerDefinition {
    return task.addContainer('proxy', {
      containerName: 'proxy',
      image: image('proxy', settings.architecture),
      portMappings: [{ containerPort: PORT }],
      stopTimeout: STOP_TIMEOUT,
      readonlyRootFilesystem: true,
      logging: ecs.LogDrivers.awsLogs({ logGroup: this.log, streamPrefix: 'proxy' }),
      // Two for each client.
      ulimits: [{ name: ecs.UlimitName.NOFILE, softLimit: 65_535, hardLimit: 65_535 }],
    });
  }

  private loadBalancer(network: Network, keepData: boolean): elb.ApplicationLoadBalancer {
    const group = new ec2.SecurityGroup(this, 'BalancerGroup', {
      vpc: network.vpc,
      description: 'The load balancer of the proxies: anybody, by TLS',
      allowAllOutbound: false,
    });
    const balancer = new elb.ApplicationLoadBalancer(this, 'Balancer', {
      vpc: network.vpc,
      vpcSubnets: { subnetType: ec2.SubnetType.PUBLIC },
      internetFacing: true,
      securityGroup: group,
      idleTimeout: IDLE_TIMEOUT,
      dropInvalidHeaderFields: true,
      deletionProtection: keepData,
    });
    Validations.of(balancer).acknowledge({
      id: 'AwsSolutions-ELB2',
      reason: 'Its access log has whole URLs, and in them the tokens of sessions. The proxies log requests without.',
    });
    Validations.of(group).acknowledge({ id: 'AwsSolutions-EC23', reason: 'Clients are anywhere.' });
    return balancer;
  }

  /** By TLS alone: even a redirect from port 80 would have a client's key in the open once. */
  private listen(network: Network, proxy: ProxySettings): elb.ApplicationTargetGroup {
    const targets = new elb.ApplicationTargetGroup(this, 'Targets', {
      vpc: network.vpc,
      port: PORT,
      protocol: elb.ApplicationProtocol.HTTP,
      targetType: elb.TargetType.IP,
      deregistrationDelay: DEREGISTRATION_DELAY,
      // Where no Redis answers no proxy is ready. ECS replaces those that are unhealthy, with all of their sockets: not
      // before a failover of Redis would long have been over.
      healthCheck: {
        path: '/ready',
        interval: Duration.seconds(10),
        timeout: Duration.seconds(5),
        healthyThresholdCount: 2,
        unhealthyThresholdCount: 10,
      },
    });
    this.balancer.addListener('Tls', {
      port: 443,
      protocol: elb.ApplicationProtocol.HTTPS,
      certificates: [acm.Certificate.fromCertificateArn(this, 'Certificate', proxy.certificateArn)],
      sslPolicy: elb.SslPolicy.RECOMMENDED_TLS,
      defaultTargetGroups: [targets],
    });
    return targets;
  }

  private addRecord(domain: string, zone: { id: string; name: string }): void {
    new route53.ARecord(this, 'Record', {
      zone: route53.HostedZone.fromHostedZoneAttributes(this, 'Zone', { hostedZoneId: zone.id, zoneName: zone.name }),
      recordName: `${domain}.`,
      target: route53.RecordTarget.fromAlias(new LoadBalancerTarget(this.balancer)),
    });
  }
}
