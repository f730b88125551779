/** The fleet on one page: what waits, what runs, what fails. */
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { Duration, Stack } from 'aws-cdk-lib';
import { Construct } from 'constructs';

import { connectionsPerTask } from './proxy-scaling.js';
import type { Alarms } from './alarms.js';
import type { Watched } from './watched.js';

const HALF = 12;

export class Dashboard extends Construct {
  constructor(scope: Construct, id: string, watched: Watched, alarms: Alarms) {
    super(scope, id);
    const fn = watched.controlPlane.function;
    const period = Duration.minutes(1);
    const sum = { period, statistic: 'Sum' };
    const board = new cloudwatch.Dashboard(this, 'Board', {
      dashboardName: Stack.of(this).stackName,
      defaultInterval: Duration.hours(3),
    });
    board.addWidgets(
      new cloudwatch.AlarmStatusWidget({ title: 'Alarms', alarms: alarms.all, width: 2 * HALF, height: 3 }),
    );
    board.addWidgets(
      graph('Sessions that wait', [watched.fleet('SessionsPending')], [watched.fleet('QueueAge')]),
      graph('Slots', [watched.fleet('Slots'), watched.fleet('SlotsUsed')]),
    );
    board.addWidgets(
      graph('Containers', [watched.fleet('Containers'), watched.fleet('ContainersStarting')]),
      graph('Starts that failed in a row', [watched.fleet('FailedStartAttempts')]),
    );
    board.addWidgets(
      graph(
        'From create to container, and to browser',
        (['QueueTime', 'ReadyTime'] as const).flatMap((of) =>
          ['p50', 'p95'].map((statistic) => watched.logged.metric(of, statistic)),
        ),
      ),
      graph('Messages and connections that could not be relayed', [watched.logged.metric('RelayErrors', 'Sum')]),
    );
    board.addWidgets(
      graph(
        'Function',
        [fn.metricInvocations(sum), fn.metricErrors(sum), fn.metricThrottles(sum)],
        [fn.metricDuration({ period, statistic: 'p95' })],
      ),
      graph(
        'Redis',
        [watched.memory().metric],
        [watched.throttled()].filter((metric) => metric !== undefined),
      ),
    );
    if (!watched.proxy) return;
    const { balancer, targets, service } = watched.proxy;
    board.addWidgets(
      graph(
        'Proxies',
        [targets.metrics.healthyHostCount({ period, statistic: 'Average' })],
        [connectionsPerTask(watched.proxy)],
      ),
      graph('What proxies carry', [balancer.metrics.processedBytes(sum)], [service.metricCpuUtilization({ period })]),
    );
  }
}

function graph(title: string, left: cloudwatch.IMetric[], right: cloudwatch.IMetric[] = []): cloudwatch.GraphWidget {
  return new cloudwatch.GraphWidget({ title, left, right, width: HALF, height: 6, leftYAxis: { min: 0 } });
}
