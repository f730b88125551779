/**
 * Redis, which holds all state: Valkey in ElastiCache, encrypted on the way and at rest.
 *
 * It asks for no password. The only ways to it are the security groups of the function and the proxies, and a password
 * in `REDIS_ENDPOINT` could be read by whoever may look at a function's configuration.
 */
import { Fn, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as elasticache from 'aws-cdk-lib/aws-elasticache';
import { Construct } from 'constructs';

import type { Home } from './home.js';
import type { Network } from './network.js';
import type { RedisSettings } from './settings.js';

/** On a cluster all keys must be in one slot, so that every script reaches what it needs: the braces say which. */
const KEY_PREFIX = '{wallcrawler}:';
/** Serverless caches answer reads from replicas at the port after their own, which this program does not use. */
const SERVERLESS_PORT = 6379;
const NODES_PORT = 6380;

export class Redis extends Construct {
  /** By which CloudWatch knows it. */
  readonly dimensions: Record<string, string>;
  readonly kind: RedisSettings['kind'];
  private readonly endpoint: string;
  private readonly group: ec2.SecurityGroup;

  constructor(scope: Construct, id: string, network: Network, settings: RedisSettings, keepData: boolean) {
    super(scope, id);
    this.kind = settings.kind;
    this.group = new ec2.SecurityGroup(this, 'Group', {
      vpc: network.vpc,
      description: 'Redis, for the control plane alone',
      allowAllOutbound: false,
    });
    const name = `${Stack.of(this).stackName}-redis`.toLowerCase();
    const subnets = network.vpc.selectSubnets(network.inside).subnetIds;
    this.endpoint =
      settings.kind === 'serverless'
        ? this.serverless(settings, name, subnets, keepData)
        : this.nodes(settings, name, subnets, keepData);
    this.dimensions = settings.kind === 'serverless' ? { clusterId: name } : { CacheClusterId: `${name}-001` };
  }

  /** The way to it, and what to call it. */
  connect(home: Home): void {
    home.connections.allowTo(this.group, this.port, 'Redis');
    home.variables.set(this, { REDIS_ENDPOINT: this.endpoint, KEY_PREFIX });
  }

  private get port(): ec2.Port {
    return ec2.Port.tcp(this.kind === 'serverless' ? SERVERLESS_PORT : NODES_PORT);
  }

  private serverless(
    settings: RedisSettings & { kind: 'serverless' },
    name: string,
    subnetIds: string[],
    keepData: boolean,
  ): string {
    const cache = new elasticache.CfnServerlessCache(this, 'Cache', {
      serverlessCacheName: name,
      engine: 'valkey',
      majorEngineVersion: '8',
      subnetIds,
      securityGroupIds: [this.group.securityGroupId],
      // A full cache evicts, and what it may evict is what has an expiry: sessions that have ended, first of all. The
      // alarm comes before that.
      cacheUsageLimits: {
        dataStorage: { unit: 'GB', maximum: settings.maxGigabytes },
        ecpuPerSecond: { maximum: settings.maxEcpuPerSecond },
      },
      ...(settings.snapshotDays > 0 && { snapshotRetentionLimit: settings.snapshotDays, dailySnapshotTime: '03:00' }),
    });
    cache.applyRemovalPolicy(keepData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY);
    return Fn.join('', ['rediss-cluster://', cache.attrEndpointAddress, ':', cache.attrEndpointPort]);
  }

  private nodes(
    settings: RedisSettings & { kind: 'nodes' },
    name: string,
    subnetIds: string[],
    keepData: boolean,
  ): string {
    const subnets = new elasticache.CfnSubnetGroup(this, 'Subnets', { description: 'Redis', subnetIds });
    const parameters = new elasticache.CfnParameterGroup(this, 'Parameters', {
      cacheParameterGroupFamily: 'valkey8',
      description: 'A full Redis refuses what is new, and forgets nothing',
      properties: { 'maxmemory-policy': 'noeviction' },
    });
    const spare = settings.replicas > 0;
    const group = new elasticache.CfnReplicationGroup(this, 'Nodes', {
      replicationGroupId: name,
      replicationGroupDescription: 'All state of WallCrawler',
      engine: 'valkey',
      engineVersion: '8.0',
      cacheNodeType: settings.nodeType,
      numNodeGroups: 1,
      replicasPerNodeGroup: settings.replicas,
      automaticFailoverEnabled: spare,
      multiAzEnabled: spare,
      cacheParameterGroupName: parameters.ref,
      cacheSubnetGroupName: subnets.ref,
      securityGroupIds: [this.group.securityGroupId],
      port: NODES_PORT,
      transitEncryptionEnabled: true,
      transitEncryptionMode: 'required',
      atRestEncryptionEnabled: true,
      ...(settings.snapshotDays > 0 && {
        snapshotRetentionLimit: settings.snapshotDays,
        snapshotWindow: '03:00-04:00',
      }),
    });
    group.applyRemovalPolicy(keepData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY);
    Validations.of(group).acknowledge({
      id: 'AwsSolutions-AEC6',
      reason:
        'No password: only the security groups of function and proxies reach it, and it would stand in a variable.',
    });
    // One shard without cluster mode has one name for whoever is the primary.
    return Fn.join('', ['rediss://', group.attrPrimaryEndPointAddress, ':', group.attrPrimaryEndPointPort]);
  }
}
