/** What there is to be watched, for alarms and dashboard. It makes nothing that costs anything. */
import { Duration } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';

import type { ControlPlane } from './control-plane.js';
import type { Browsers } from './browsers.js';
import type { LogMetrics } from './logged.js';
import type { Proxy } from './proxy.js';
import type { Redis } from './redis.js';
import type { Settings } from './settings.js';

/** What the function tells with each scheduled look (`embedded` in src/metrics.rs): a test compares the two. */
export const FLEET_METRICS = [
  'SessionsPending',
  'QueueAge',
  'Slots',
  'SlotsUsed',
  'Containers',
  'ContainersStarting',
  'FailedStartAttempts',
] as const;
export type FleetMetric = (typeof FLEET_METRICS)[number];
export const NAMESPACE = 'WallCrawler';

export class Watched {
  constructor(
    readonly settings: Settings,
    readonly controlPlane: ControlPlane,
    readonly browsers: Browsers,
    readonly redis: Redis,
    readonly logged: LogMetrics,
    readonly proxy?: Proxy,
  ) {}

  fleet(metricName: FleetMetric, statistic = 'Maximum'): cloudwatch.Metric {
    return new cloudwatch.Metric({
      namespace: NAMESPACE,
      metricName,
      dimensionsMap: { FunctionName: this.controlPlane.function.functionName },
      statistic,
      period: Duration.minutes(1),
    });
  }

  /** How full Redis is, and from where on that is too much: four fifths. */
  memory(): { metric: cloudwatch.Metric; tooMuch: number } {
    const { redis } = this.settings;
    return redis.kind === 'serverless'
      ? { metric: this.ofRedis('BytesUsedForCache'), tooMuch: redis.maxGigabytes * 1e9 * 0.8 }
      : { metric: this.ofRedis('DatabaseMemoryUsagePercentage'), tooMuch: 80 };
  }

  /** Commands that Redis turned away: only a serverless one does. */
  throttled(): cloudwatch.Metric | undefined {
    return this.redis.kind === 'serverless' ? this.ofRedis('ThrottledCmds', 'Sum') : undefined;
  }

  /** Keys that Redis forgot to make room: with them goes what they held. Nodes are told not to. */
  evicted(): cloudwatch.Metric | undefined {
    return this.redis.kind === 'serverless' ? this.ofRedis('Evictions', 'Sum') : undefined;
  }

  private ofRedis(metricName: string, statistic = 'Maximum'): cloudwatch.Metric {
    const dimensionsMap = this.redis.dimensions;
    return new cloudwatch.Metric({
      namespace: 'AWS/ElastiCache',
      metricName,
      dimensionsMap,
      statistic,
      period: Duration.minutes(1),
    });
  }
}
