/** What a deployment rests on: who may do what, who reaches whom, and that sockets may last. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { test } from 'node:test';
import type { App } from 'aws-cdk-lib';
import { Match } from 'aws-cdk-lib/assertions';

import { code } from '../lib/control-plane.js';
import { stages } from '../lib/settings.js';
import { type Made, type Properties, STAGES, check, make, only, resources, rust, stage, statements } from './support.js';

const json = (value: unknown) => JSON.stringify(value);

/** Who may come in where: the security groups, or addresses, that the rules of a group name, with the port. */
function entrances(made: Made, group: string): string[] {
  const own = resources(made, 'AWS::EC2::SecurityGroup', group).flatMap(
    (properties) => (properties.SecurityGroupIngress ?? []) as Properties[],
  );
  const apart = resources(made, 'AWS::EC2::SecurityGroupIngress', group);
  return [...own, ...apart].map((rule) => {
    const from = json(rule.SourceSecurityGroupId ?? rule.CidrIp).replace(
      /.*?(ControlPlane|Proxy[A-Za-z]*?)Group.*/,
      '$1',
    );
    return `${from} ${String(rule.FromPort)}`;
  });
}

test('browsers are reached by function and proxies alone, at the port they listen on', () => {
  assert.deepEqual(entrances(stage('dev'), 'BrowsersGroup'), ['ControlPlane 8080']);
  for (const name of ['staging', 'prod'] as const) {
    assert.deepEqual(entrances(stage(name), 'BrowsersGroup').sort(), ['ControlPlane 8080', 'Proxy 8080']);
  }
});

test('Redis is reached by function and proxies alone', () => {
  assert.deepEqual(entrances(stage('dev'), 'RedisGroup'), ['ControlPlane 6379']);
  assert.deepEqual(entrances(stage('prod'), 'RedisGroup').sort(), ['ControlPlane 6380', 'Proxy 6380']);
});

test('the world comes in by TLS at the load balancer, and nowhere else', () => {
  for (const name of STAGES) {
    const open = resources(stage(name), 'AWS::EC2::SecurityGroup').filter((group) =>
      json(group.SecurityGroupIngress ?? []).includes('0.0.0.0/0'),
    );
    const ports = open.flatMap((group) => (group.SecurityGroupIngress as Properties[]).map((rule) => rule.FromPort));
    assert.deepEqual(ports, stages[name].proxy ? [443] : []);
    const listeners = resources(stage(name), 'AWS::ElasticLoadBalancingV2::Listener');
    assert.deepEqual(
      listeners.map((listener) => listener.Protocol),
      stages[name].proxy ? ['HTTPS'] : [],
    );
  }
});

test('the role of browser containers may do nothing', () => {
  for (const name of STAGES) {
    assert.deepEqual(statements(stage(name), 'BrowsersRole'), []);
    const role = only(stage(name), 'AWS::IAM::Role', 'BrowsersRole');
    assert.deepEqual(Object.keys(role).sort(), ['AssumeRolePolicyDocument', 'Description', 'Tags']);
  }
});

test('the control plane may do what it does, each with its resources and conditions', () => {
  const ofControlPlane = {
    'ecs:RunTask': /task-definition\/WallCrawler-staging-browser:\*.*ArnEquals.*ecs:cluster/,
    'ecs:StopTask': /:task\/.*ArnEquals.*ecs:cluster/,
    'ecs:DescribeTasks': /:task\/.*ArnEquals.*ecs:cluster/,
    'ecs:ListTasks': /"Resource":"\*".*ArnEquals.*ecs:cluster|ArnEquals.*ecs:cluster.*"Resource":"\*"/,
    'ecs:TagResource': /"ecs:CreateAction":"RunTask"/,
    'iam:PassRole': /"iam:PassedToService":"ecs-tasks.amazonaws.com"/,
    'secretsmanager:GetSecretValue': /SecretsApiKeys.*SecretsTokens/,
    's3:GetObject': /StorageFiles.*\/\*/,
    's3:PutObject': /StorageFiles.*\/\*/,
    's3:DeleteObject': /StorageFiles.*\/\*/,
    's3:ListBucket': /StorageFiles/,
    'execute-api:ManageConnections': /GatewayApi.*\/prod\/POST\/@connections\/\*/,
  };
  const others = { ControlPlaneRole: /^(ec2|logs|sqs):/, ProxyTaskTaskRole: /^$/ };
  for (const [role, besides] of Object.entries(others)) {
    const allowed = statements(stage('staging'), role).filter((statement) => statement.Effect === 'Allow');
    const expected = new Map(Object.entries(ofControlPlane));
    for (const statement of allowed) {
      const actions = [statement.Action].flat() as string[];
      const text = json({ Condition: statement.Condition, Resource: statement.Resource });
      for (const action of actions.filter((one) => !besides.test(one))) {
        const pattern = expected.get(action);
        assert.ok(pattern, `${role} may ${action}`);
        assert.match(`${text}${json(statement)}`, pattern);
        expected.delete(action);
      }
    }
    assert.deepEqual([...expected.keys()], [], `${role} may not`);
  }
});

test('sockets may last for an hour, and their proxies go when the last has closed', () => {
  for (const name of ['staging', 'prod'] as const) {
    const { template } = stage(name);
    template.hasResourceProperties('AWS::ElasticLoadBalancingV2::LoadBalancer', {
      LoadBalancerAttributes: Match.arrayWith([{ Key: 'idle_timeout.timeout_seconds', Value: '4000' }]),
    });
    template.hasResourceProperties('AWS::ElasticLoadBalancingV2::TargetGroup', {
      TargetGroupAttributes: Match.arrayWith([{ Key: 'deregistration_delay.timeout_seconds', Value: '3600' }]),
      HealthCheckPath: '/ready',
    });
    template.hasResourceProperties('AWS::ECS::Service', {
      DeploymentConfiguration: Match.objectLike({ MinimumHealthyPercent: 100, MaximumPercent: 200 }),
    });
  }
});

test('a revision of the browsers outlives its successor: proxies that are being replaced still start it', () => {
  for (const name of STAGES) {
    const definitions = stage(name).template.findResources('AWS::ECS::TaskDefinition');
    const [, browsers] = Object.entries(definitions).find(([id]) => id.startsWith('Browsers')) ?? [];
    assert.equal(browsers?.UpdateReplacePolicy, 'Retain');
  }
});

test('the function can be given invocations of its own', () => {
  const made = make('prod', { function: { memoryMiB: 512, reservedConcurrency: 50 } });
  made.template.hasResourceProperties('AWS::Lambda::Function', { ReservedConcurrentExecutions: 50 });
});

test('a task that is told to end has ended by itself before it is killed', () => {
  type Container = { Name: string; StopTimeout: number; Environment: { Name: string; Value: string }[] };
  const agent = rust('src/agent/claim.rs');
  const seconds = (name: string) => Number(new RegExp(`const ${name}: Duration = .*from_secs\\((\\d+)\\)`).exec(agent)?.[1]);
  // What a container does when the time to drain is over, at most.
  const afterwards = seconds('LAST_FILES') + seconds('LAST_ENDS') + seconds('FAREWELL');
  for (const name of STAGES) {
    const tasks = resources(stage(name), 'AWS::ECS::TaskDefinition');
    assert.equal(tasks.length, stages[name].proxy ? 2 : 1);
    for (const { ContainerDefinitions } of tasks) {
      const [container] = ContainerDefinitions as Container[];
      const drain = container!.Environment.find((variable) => variable.Name === 'DRAIN_SECONDS');
      const needed = Number(drain?.Value) + (container!.Name === 'browser' ? afterwards : 0);
      assert.ok(needed < container!.StopTimeout, `${container!.Name}: ${needed}`);
      assert.ok(container!.StopTimeout <= 120, 'Fargate allows no more');
    }
  }
});

test('a proxy keeps an idle connection longer than the balancer in front of it does', () => {
  for (const name of STAGES) {
    if (!stages[name].proxy) continue;
    const proxy = only(stage(name), 'AWS::ECS::TaskDefinition', 'Proxy');
    const [container] = proxy.ContainerDefinitions as { Environment: { Name: string; Value: string }[] }[];
    const kept = container!.Environment.find((variable) => variable.Name === 'KEEP_ALIVE_SECONDS');
    const [balancer] = resources(stage(name), 'AWS::ElasticLoadBalancingV2::LoadBalancer');
    const attributes = balancer!.LoadBalancerAttributes as { Key: string; Value: string }[];
    const idle = attributes.find((attribute) => attribute.Key === 'idle_timeout.timeout_seconds');
    assert.ok(Number(kept?.Value) > Number(idle?.Value), name);
  }
});

test('a client that is refused is told why, and no message is answered by the route', () => {
  const made = stage('dev');
  const routes = made.template.findResources('AWS::ApiGatewayV2::Route');
  const keys = Object.values(routes).map((route) => (route as { Properties: Properties }).Properties.RouteKey);
  assert.deepEqual(keys.sort(), ['$connect', '$default', '$default', '$disconnect']);
  const answering = resources(made, 'AWS::ApiGatewayV2::RouteResponse').map((response) => json(response.RouteId));
  assert.equal(answering.length, 1);
  const [[id]] = Object.entries(routes).filter(
    ([, route]) => (route as { Properties: Properties }).Properties.RouteKey === '$connect',
  ) as [[string, unknown]];
  assert.equal(answering[0], json({ Ref: id }));
});

test('the function is told the time once a minute, and of tasks of this cluster that end', () => {
  for (const name of STAGES) {
    const { template } = stage(name);
    template.hasResourceProperties('AWS::Events::Rule', { ScheduleExpression: 'rate(1 minute)' });
    template.hasResourceProperties('AWS::Events::Rule', {
      EventPattern: {
        source: ['aws.ecs'],
        'detail-type': ['ECS Task State Change'],
        detail: {
          clusterArn: [{ 'Fn::GetAtt': [Match.stringLikeRegexp('BrowsersCluster'), 'Arn'] }],
          desiredStatus: ['STOPPED'],
        },
      },
    });
  }
});

test('logs are kept for as long as the stage says', () => {
  for (const name of STAGES) {
    const days = resources(stage(name), 'AWS::Logs::LogGroup').map((log) => log.RetentionInDays);
    assert.deepEqual([...new Set(days)], [stages[name].logDays]);
  }
});

test('what runs for arm64 is built for arm64', () => {
  const made = make('staging', { architecture: 'arm64' });
  made.template.hasResourceProperties('AWS::Lambda::Function', { Architectures: ['arm64'] });
  for (const task of resources(made, 'AWS::ECS::TaskDefinition')) {
    assert.match(json(task.RuntimePlatform), /ARM64/);
  }
  const { directory } = (made.stack.node.root as App).synth();
  const manifest = readFileSync(path.join(directory, `${made.stack.stackName}.assets.json`), 'utf8');
  const platforms = [...manifest.matchAll(/"platform": "(.*)"/g)].map((match) => match[1]);
  assert.deepEqual(platforms, ['linux/arm64', 'linux/arm64']);
});

test('without gateways the function has endpoints, and tasks have addresses of their own', () => {
  const made = make('prod', { network: { egress: 'endpoints', natGateways: 0 } });
  made.template.resourceCountIs('AWS::EC2::NatGateway', 0);
  const interfaces = resources(made, 'AWS::EC2::VPCEndpoint').filter(
    (endpoint) => endpoint.VpcEndpointType === 'Interface',
  );
  assert.equal(interfaces.length, 2);
  assert.deepEqual(entrances(made, 'NetworkEndpoints').sort(), ['ControlPlane 443', 'Proxy 443']);
  const fn = only(made, 'AWS::Lambda::Function', 'ControlPlane');
  assert.match(json(fn.Environment), /"ASSIGN_PUBLIC_IP":"true"/);
  assert.throws(() => make('staging', { network: { egress: 'endpoints', natGateways: 0 } }), /@connections/);
});

test('a network that is there already is used', () => {
  const existing = {
    vpcId: 'vpc-11111111',
    availabilityZones: ['us-east-1a', 'us-east-1b'],
    publicSubnetIds: ['subnet-aaaaaaaa', 'subnet-bbbbbbbb'],
    privateSubnetIds: ['subnet-cccccccc', 'subnet-dddddddd'],
  };
  for (const egress of ['nat', 'endpoints'] as const) {
    const made = make('prod', { network: { existing, egress, natGateways: 0 } });
    made.template.resourceCountIs('AWS::EC2::VPC', 0);
    const fn = only(made, 'AWS::Lambda::Function', 'ControlPlane') as { VpcConfig: Properties; Environment: unknown };
    assert.deepEqual(fn.VpcConfig.SubnetIds, ['subnet-cccccccc', 'subnet-dddddddd']);
    const tasks = egress === 'nat' ? 'subnet-cccccccc,subnet-dddddddd' : 'subnet-aaaaaaaa,subnet-bbbbbbbb';
    assert.ok(json(fn.Environment).includes(`"SUBNET_IDS":"${tasks}"`));
  }
});

test('nothing is deployed with example settings, or without the function', () => {
  assert.throws(() => make('prod', {}, false), /proxy.domain is still cdp.example.com.*certificateArn/);
  const empty = mkdtempSync(path.join(tmpdir(), 'wc-cdk-'));
  assert.throws(
    () => code('arm64', false, empty),
    /target\/lambda\/arm64\/wallcrawler.zip is missing.*make lambda ARCH=arm64/,
  );
  assert.doesNotThrow(() => code('arm64', true, empty));
});

test('what no stage has chosen is as AWS wants it, too', () => {
  const { redis, proxy } = stages.prod;
  check('staging', {
    architecture: 'arm64',
    network: { egress: 'endpoints', natGateways: 0 },
    redis,
    function: { memoryMiB: 256, reservedConcurrency: 50 },
    websocketApi: false,
    proxy: { ...proxy!, hostedZone: { id: 'Z0123456789ABCDEFGHIJ', name: 'example.com' } },
    alarmEmail: 'somebody@example.com',
  });
});

test('a stage without a way to its browsers is refused', () => {
  assert.throws(() => make('dev', { websocketApi: false }), /clients need one of them/);
});
