/** How many proxies there are: as many as their clients need. */
import { Duration } from 'aws-cdk-lib';
import { AdjustmentType } from 'aws-cdk-lib/aws-applicationautoscaling';
import { MathExpression } from 'aws-cdk-lib/aws-cloudwatch';
import type * as ecs from 'aws-cdk-lib/aws-ecs';
import type * as elb from 'aws-cdk-lib/aws-elasticloadbalancingv2';

import type { ProxySettings } from './settings.js';

interface Balanced {
  readonly service: ecs.FargateService;
  readonly balancer: elb.ApplicationLoadBalancer;
  readonly targets: elb.ApplicationTargetGroup;
}

/**
 * Clients for each proxy that takes some. The balancer counts both sides of each, and nothing sooner than that tells of
 * sockets which last for an hour: requests and CPU tell of new ones, and of those that are busy.
 */
export function connectionsPerTask({ balancer, targets }: Balanced): MathExpression {
  return new MathExpression({
    label: 'Connections for each proxy',
    expression: 'active / 2 / IF(healthy > 0, healthy, 1)',
    usingMetrics: {
      active: balancer.metrics.activeConnectionCount({ statistic: 'Sum' }),
      healthy: targets.metrics.healthyHostCount({ statistic: 'Average' }),
    },
    period: Duration.minutes(1),
  });
}

export function scaleByConnections(proxies: Balanced, settings: ProxySettings): void {
  const tasks = proxies.service.autoScaleTaskCount({
    minCapacity: settings.minTasks,
    maxCapacity: settings.maxTasks,
  });
  const full = settings.connectionsPerTask;
  tasks.scaleOnMetric('Connections', {
    metric: connectionsPerTask(proxies),
    adjustmentType: AdjustmentType.CHANGE_IN_CAPACITY,
    cooldown: Duration.minutes(2),
    // Where one is taken out its sockets stay for as long as a deployment leaves them. New ones go to the others, so it
    // is done only where those have room for all.
    scalingSteps: [
      { upper: full * 0.3, change: -1 },
      { lower: full, change: +1 },
      { lower: full * 2, change: +3 },
    ],
  });
}
