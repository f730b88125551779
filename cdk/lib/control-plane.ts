/** The control plane as a function behind an HTTP API, and what AWS tells it: the time, and tasks that end. */
import { existsSync } from 'node:fs';
import * as path from 'node:path';
import { ArnFormat, Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as apigateway from 'aws-cdk-lib/aws-apigatewayv2';
import { HttpLambdaIntegration } from 'aws-cdk-lib/aws-apigatewayv2-integrations';
import { AccessLogFormat } from 'aws-cdk-lib/aws-apigateway';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import type { ICluster } from 'aws-cdk-lib/aws-ecs';
import * as events from 'aws-cdk-lib/aws-events';
import { LambdaFunction } from 'aws-cdk-lib/aws-events-targets';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { SqsDestination } from 'aws-cdk-lib/aws-lambda-destinations';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';

import { type Home, Variables } from './home.js';
import { ROOT } from './images.js';
import type { Network } from './network.js';
import { allow } from './permissions.js';
import type { Architecture, Settings } from './settings.js';

/**
 * A look at the fleet goes on until it is clear who is lost: three heartbeats, and five seconds more; to that comes what
 * ECS may take to list its tasks. Requests are cut off by API Gateway after 30 s, whatever this is.
 */
export const TIMEOUT = Duration.seconds(45);

export class ControlPlane extends Construct implements Home {
  readonly function: lambda.Function;
  readonly api: apigateway.HttpApi;
  readonly variables: Variables;
  readonly connections: ec2.Connections;
  readonly role: iam.Role;
  readonly log: logs.LogGroup;
  /** Events that could not be acted on, three times over. */
  readonly failed: sqs.Queue;

  constructor(scope: Construct, id: string, network: Network, settings: Settings, draft: boolean) {
    super(scope, id);
    const { stackName } = Stack.of(this);
    this.log = new logs.LogGroup(this, 'Log', { retention: settings.logDays, removalPolicy: RemovalPolicy.DESTROY });
    this.failed = new sqs.Queue(this, 'Failed', { enforceSSL: true, retentionPeriod: Duration.days(14) });
    Validations.of(this.failed).acknowledge({ id: 'AwsSolutions-SQS3', reason: 'It is itself where failures end.' });
    const group = new ec2.SecurityGroup(this, 'Group', {
      vpc: network.vpc,
      description: 'The function, which nobody reaches by the network',
      allowAllOutbound: false,
    });
    this.role = this.ownRole(stackName);
    this.function = new lambda.Function(this, 'Function', {
      functionName: stackName,
      description: 'The control plane of WallCrawler',
      runtime: lambda.Runtime.PROVIDED_AL2023,
      architecture: settings.architecture === 'arm64' ? lambda.Architecture.ARM_64 : lambda.Architecture.X86_64,
      handler: 'bootstrap',
      code: code(settings.architecture, draft),
      memorySize: settings.function.memoryMiB,
      timeout: TIMEOUT,
      reservedConcurrentExecutions: settings.function.reservedConcurrency,
      role: this.role,
      logGroup: this.log,
      vpc: network.vpc,
      vpcSubnets: network.inside,
      securityGroups: [group],
      onFailure: new SqsDestination(this.failed),
      retryAttempts: 2,
    });
    this.connections = this.function.connections;
    this.variables = new Variables((name, value) => this.function.addEnvironment(name, value));
    this.variables.set(this, { RUST_LOG: 'info' });
    this.api = this.httpApi(settings.logDays);
  }

  /** Has it told, once a minute, to look at the fleet, and at once when a task of the cluster ends. */
  listen(cluster: ICluster): void {
    const target = () => new LambdaFunction(this.function, { retryAttempts: 2, deadLetterQueue: this.failed });
    new events.Rule(this, 'EveryMinute', {
      description: 'What a server does by itself: expire, start, drain, reconcile',
      schedule: events.Schedule.rate(Duration.minutes(1)),
      targets: [target()],
    });
    new events.Rule(this, 'TaskChanged', {
      description: 'A task ends, or has ended',
      // Also what is desired only: Spot says so two minutes ahead.
      eventPattern: {
        source: ['aws.ecs'],
        detailType: ['ECS Task State Change'],
        detail: { clusterArn: [cluster.clusterArn], desiredStatus: ['STOPPED'] },
      },
      targets: [target()],
    });
  }

  /** AWS's own roles for functions may write to any log. This one may write to its own, and have its network cards. */
  private ownRole(functionName: string): iam.Role {
    const role = new iam.Role(this, 'Role', { assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com') });
    this.log.grantWrite(role);
    const actions = [
      'ec2:CreateNetworkInterface',
      'ec2:DescribeNetworkInterfaces',
      'ec2:DeleteNetworkInterface',
      'ec2:DescribeSubnets',
      'ec2:AssignPrivateIpAddresses',
      'ec2:UnassignPrivateIpAddresses',
    ];
    allow(role, { actions, resources: ['*'], why: 'Lambda asks for exactly this of a function in a network.' });
    // Lambda makes the cards, in the function's name. Its code has no business with them.
    const self = Stack.of(this).formatArn({
      service: 'lambda',
      resource: 'function',
      resourceName: functionName,
      arnFormat: ArnFormat.COLON_RESOURCE_NAME,
    });
    role.addToPolicy(
      new iam.PolicyStatement({
        effect: iam.Effect.DENY,
        actions,
        resources: ['*'],
        conditions: { ArnEquals: { 'lambda:SourceFunctionArn': self } },
      }),
    );
    return role;
  }

  private httpApi(logDays: number): apigateway.HttpApi {
    const api = new apigateway.HttpApi(this, 'Api', {
      apiName: Stack.of(this).stackName,
      createDefaultStage: false,
      defaultIntegration: new HttpLambdaIntegration('Function', this.function),
    });
    const log = new logs.LogGroup(this, 'ApiLog', { retention: logDays, removalPolicy: RemovalPolicy.DESTROY });
    new apigateway.HttpStage(this, 'Stage', {
      httpApi: api,
      autoDeploy: true,
      // Of the account's 10,000 a second, which all of its APIs share.
      throttle: { rateLimit: 2_000, burstLimit: 1_000 },
      accessLogSettings: {
        destination: new apigateway.LogGroupLogDestination(log),
        // Neither query nor headers: tokens and keys are in them.
        format: AccessLogFormat.custom(
          JSON.stringify({
            requestId: '$context.requestId',
            method: '$context.httpMethod',
            status: '$context.status',
            latencyMs: '$context.responseLatency',
            error: '$context.integrationErrorMessage',
            ip: '$context.identity.sourceIp',
          }),
        ),
      },
    });
    Validations.of(api).acknowledge({
      id: 'AwsSolutions-APIG4',
      reason: 'The function checks each request itself: API keys, and the tokens of sessions and containers.',
    });
    return api;
  }
}

/** What `make lambda` packed. Whoever only looks at the templates gets on without it. */
export function code(architecture: Architecture, draft: boolean, root = ROOT): lambda.Code {
  const zip = path.join(root, 'target/lambda', architecture, 'wallcrawler.zip');
  if (existsSync(zip)) return lambda.Code.fromAsset(zip);
  if (draft) return lambda.Code.fromAsset(path.join(ROOT, 'cdk/test/placeholder'));
  throw new Error(`${path.relative(root, zip)} is missing: run \`make lambda ARCH=${architecture}\` first`);
}
