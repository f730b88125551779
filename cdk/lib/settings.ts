/**
 * What differs between the stages, and nothing else. What is the same everywhere stands in the construct that it
 * concerns. Change it here and deploy again.
 */

export type Architecture = 'x86_64' | 'arm64';

/** A network that is there already, with two availability zones or more. */
export interface ExistingNetwork {
  vpcId: string;
  availabilityZones: string[];
  publicSubnetIds: string[];
  /** With a way out, unless `egress` is `endpoints`. One for each zone, in the same order. */
  privateSubnetIds: string[];
}

export interface NetworkSettings {
  /** Otherwise a network is made. */
  existing?: ExistingNetwork;
  /**
   * How what runs in the network reaches the internet, and AWS.
   *
   * - `nat`: all of it through NAT gateways, 33 USD a month each, and 0.045 USD for each GB that browsers load.
   * - `endpoints`: the function has two endpoints (Secrets Manager, ECS), 7.30 USD a month each in each of two zones,
   *   together 29 USD, and reaches nothing else. Browsers and proxies have public addresses, which cost 0.005 USD an
   *   hour each while they run, and nothing for each GB that comes in; nobody gets in by them, see their security
   *   groups. Not to be had with `websocketApi`: its @connections can only be reached from the internet.
   */
  egress: 'nat' | 'endpoints';
  /** One is enough, and a single point of failure; one for each zone is not. */
  natGateways: number;
}

export type RedisSettings =
  /** Grows by itself; empty, it costs what 100 MB do, 6 USD a month. The limits keep a mistake from becoming a bill. */
  | { kind: 'serverless'; maxGigabytes: number; maxEcpuPerSecond: number; snapshotDays: number }
  /** One shard: all keys are in one slot, so more would only be idle. Each node costs by the hour. */
  | { kind: 'nodes'; nodeType: string; replicas: number; snapshotDays: number };

export interface FunctionSettings {
  memoryMiB: number;
  /**
   * How many invocations there may be at once; otherwise what the account has left. A new account may have 10 in all
   * until AWS raises that, and each container that asks the function for work, and not a proxy, takes one of them.
   */
  reservedConcurrency?: number;
}

export interface BrowserSettings {
  /** Of a task, in units of 1/1024 of a CPU. Fargate allows only certain pairs of CPU and memory. */
  cpu: number;
  memoryMiB: number;
  sessionsPerContainer: number;
  maxContainers: number;
  minContainers: number;
  warmSlots: number;
  warmBrowsers: number;
  idleSeconds: number;
  /** Names and weights, as `ECS_CAPACITY_PROVIDERS` takes them. Spot costs a third, and may end within two minutes. */
  capacityProviders: string;
}

export interface LimitSettings {
  maxPendingSessions: number;
  /** 0: no limit. */
  maxSessionsPerUser: number;
  createsPerMinute: number;
}

export interface ProxySettings {
  /** Under which clients reach it. */
  domain: string;
  /** Of that domain, in the region of the stack, in ACM. */
  certificateArn: string;
  /** If the domain is in Route 53, the record is made. Otherwise make one that points to the output `ProxyDnsName`. */
  hostedZone?: { id: string; name: string };
  cpu: number;
  memoryMiB: number;
  minTasks: number;
  maxTasks: number;
  /** From how many clients a task on another task is started. */
  connectionsPerTask: number;
}

export interface Settings {
  /**
   * What function and images are compiled for. arm64 costs a fifth less. Take what the machine is that deploys (arm64
   * for a Mac with Apple silicon): images for the other one are compiled under emulation, which takes many times as long.
   */
  architecture: Architecture;
  network: NetworkSettings;
  redis: RedisSettings;
  function: FunctionSettings;
  browsers: BrowserSettings;
  limits: LimitSettings;
  /** The fallback for clients' sockets: needs no domain and costs nothing while idle, but Playwright cannot use it. */
  websocketApi: boolean;
  /** The fast way, for every client. Without it there must be the `websocketApi`. */
  proxy?: ProxySettings;
  logDays: 7 | 30 | 90;
  /** Where alarms are sent to. */
  alarmEmail?: string;
  /** CPU and memory of each task in CloudWatch, at a price for each. */
  containerInsights: boolean;
  /** Whether what holds data outlives the stack. */
  keepData: boolean;
}

export type Stage = 'dev' | 'staging' | 'prod';

export const stages: Record<Stage, Settings> = {
  dev: {
    architecture: 'x86_64',
    network: { egress: 'nat', natGateways: 1 },
    redis: { kind: 'serverless', maxGigabytes: 1, maxEcpuPerSecond: 5_000, snapshotDays: 0 },
    function: { memoryMiB: 512 },
    browsers: {
      cpu: 2048,
      memoryMiB: 4096,
      sessionsPerContainer: 5,
      maxContainers: 5,
      minContainers: 0,
      warmSlots: 0,
      warmBrowsers: 1,
      idleSeconds: 300,
      capacityProviders: 'FARGATE_SPOT:1',
    },
    limits: { maxPendingSessions: 100, maxSessionsPerUser: 20, createsPerMinute: 60 },
    websocketApi: true,
    logDays: 7,
    containerInsights: false,
    keepData: false,
  },

  staging: {
    architecture: 'x86_64',
    network: { egress: 'nat', natGateways: 1 },
    redis: { kind: 'serverless', maxGigabytes: 5, maxEcpuPerSecond: 20_000, snapshotDays: 1 },
    function: { memoryMiB: 512 },
    browsers: {
      cpu: 4096,
      memoryMiB: 8192,
      sessionsPerContainer: 20,
      maxContainers: 20,
      minContainers: 0,
      warmSlots: 0,
      warmBrowsers: 2,
      idleSeconds: 300,
      capacityProviders: 'FARGATE_SPOT:4,FARGATE:1',
    },
    limits: { maxPendingSessions: 1_000, maxSessionsPerUser: 100, createsPerMinute: 300 },
    websocketApi: true,
    proxy: {
      domain: 'cdp.staging.example.com',
      certificateArn: 'arn:aws:acm:us-east-1:111111111111:certificate/00000000-0000-0000-0000-000000000000',
      cpu: 512,
      memoryMiB: 1024,
      minTasks: 1,
      maxTasks: 4,
      connectionsPerTask: 1_000,
    },
    logDays: 30,
    containerInsights: false,
    keepData: false,
  },

  prod: {
    architecture: 'x86_64',
    network: { egress: 'nat', natGateways: 2 },
    redis: { kind: 'nodes', nodeType: 'cache.t4g.medium', replicas: 1, snapshotDays: 7 },
    function: { memoryMiB: 1024 },
    browsers: {
      cpu: 4096,
      memoryMiB: 16384,
      sessionsPerContainer: 20,
      maxContainers: 100,
      minContainers: 1,
      warmSlots: 20,
      warmBrowsers: 2,
      idleSeconds: 300,
      capacityProviders: 'FARGATE:1',
    },
    limits: { maxPendingSessions: 5_000, maxSessionsPerUser: 500, createsPerMinute: 1_000 },
    websocketApi: false,
    proxy: {
      domain: 'cdp.example.com',
      certificateArn: 'arn:aws:acm:us-east-1:111111111111:certificate/00000000-0000-0000-0000-000000000000',
      cpu: 1024,
      memoryMiB: 2048,
      minTasks: 2,
      maxTasks: 20,
      connectionsPerTask: 2_000,
    },
    logDays: 90,
    containerInsights: true,
    keepData: true,
  },
};

export function isStage(name: string): name is Stage {
  return Object.hasOwn(stages, name);
}

/** All that cannot work, however the rest is. */
export function faults(settings: Settings): string[] {
  const { network, proxy, websocketApi, browsers } = settings;
  const found: string[] = [];
  if (!proxy && !websocketApi) found.push('proxy or websocketApi: clients need one of them to reach their browsers');
  if (websocketApi && network.egress === 'endpoints') {
    found.push('websocketApi: the function reaches its @connections only with egress: nat');
  }
  if (browsers.minContainers > browsers.maxContainers) found.push('browsers: minContainers is above maxContainers');
  return found;
}

/** What must be replaced before anything is deployed. */
export function examples(settings: Settings): string[] {
  const found: string[] = [];
  if (settings.proxy?.domain.endsWith('example.com')) found.push(`proxy.domain is still ${settings.proxy.domain}`);
  if (settings.proxy?.certificateArn.includes(':111111111111:')) found.push('proxy.certificateArn is still an example');
  return found;
}
