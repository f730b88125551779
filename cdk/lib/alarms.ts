/** What somebody must look at. Each alarm says what to do first. */
import { Duration } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions';
import { HttpCodeElb } from 'aws-cdk-lib/aws-elasticloadbalancingv2';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as sns from 'aws-cdk-lib/aws-sns';
import { EmailSubscription } from 'aws-cdk-lib/aws-sns-subscriptions';
import { Construct } from 'constructs';

import type { Proxy } from './proxy.js';
import type { Watched } from './watched.js';

/** For how long a metric must be at least so high, or below something: then nothing at all is below it, too. */
type When = { metric: cloudwatch.IMetric; minutes: number } & ({ atLeast: number } | { below: number });

const EACH_MINUTE = { period: Duration.minutes(1), statistic: 'Sum' };

export class Alarms extends Construct {
  readonly all: cloudwatch.Alarm[] = [];
  private readonly topic: sns.Topic;

  constructor(scope: Construct, id: string, watched: Watched) {
    super(scope, id);
    const { alarmEmail } = watched.settings;
    this.topic = new sns.Topic(this, 'Topic', { displayName: 'WallCrawler', enforceSSL: true });
    if (alarmEmail) this.topic.addSubscription(new EmailSubscription(alarmEmail));
    this.fleet(watched);
    this.relays(watched);
    this.redis(watched);
    this.function(watched);
    this.errors('Function', watched.controlPlane.log);
    this.errors('Browser', watched.browsers.log);
    if (watched.proxy) this.proxies(watched.proxy);
  }

  /** By what the function tells once a minute. */
  private fleet(watched: Watched): void {
    this.add(
      'NoLook',
      'Nobody has looked at the fleet for five minutes: see the log of the function, and the rule EveryMinute.',
      {
        metric: watched.fleet('SessionsPending', 'SampleCount'),
        below: 1,
        minutes: 5,
      },
    );
    this.add('QueueAge', 'A session has waited two minutes for a container: GET /fleet says what the plan waits for.', {
      metric: watched.fleet('QueueAge'),
      atLeast: 120_000,
      minutes: 3,
    });
    this.add('StartsFail', 'Containers cannot be started, or do not come: GET /fleet says why the last one did not.', {
      metric: watched.fleet('FailedStartAttempts'),
      atLeast: 3,
      minutes: 1,
    });
    this.add('FleetFull', 'All containers that may run do: raise browsers.maxContainers, or sessions will wait.', {
      metric: watched.fleet('Containers'),
      atLeast: watched.settings.browsers.maxContainers,
      minutes: 5,
    });
    this.add('QueueFills', 'The queue is half full: when it is full, creates are refused.', {
      metric: watched.fleet('SessionsPending'),
      atLeast: watched.settings.limits.maxPendingSessions / 2,
      minutes: 2,
    });
  }

  /** By what the homes write. */
  private relays({ logged }: Watched): void {
    this.add('RelayFails', 'Clients do not get through to their browsers: see whether containers run, and answer.', {
      metric: logged.metric('RelayErrors', 'Sum'),
      atLeast: 10,
      minutes: 3,
    });
  }

  private redis(watched: Watched): void {
    const { metric, tooMuch } = watched.memory();
    this.add('RedisFills', 'Redis is four fifths full: give it more room.', { metric, atLeast: tooMuch, minutes: 3 });
    const [throttled, evicted] = [watched.throttled(), watched.evicted()];
    if (evicted) {
      this.add('RedisForgets', 'Redis was full, and has forgotten something: give it more room.', {
        metric: evicted,
        atLeast: 1,
        minutes: 1,
      });
    }
    if (throttled) {
      this.add('RedisThrottles', 'Redis turns commands away: raise redis.maxEcpuPerSecond.', {
        metric: throttled,
        atLeast: 1,
        minutes: 3,
      });
    }
  }

  private function({ controlPlane }: Watched): void {
    this.add('FunctionErrors', 'Invocations fail: see the log of the function.', {
      metric: controlPlane.function.metricErrors(EACH_MINUTE),
      atLeast: 5,
      minutes: 3,
    });
    this.add(
      'FunctionThrottles',
      'Invocations are refused: raise function.reservedConcurrency, or the account quota.',
      {
        metric: controlPlane.function.metricThrottles(EACH_MINUTE),
        atLeast: 1,
        minutes: 3,
      },
    );
    this.add('EventsFail', 'Events could not be acted on: they are kept in the queue of failed ones.', {
      metric: controlPlane.failed.metricApproximateNumberOfMessagesVisible({ ...EACH_MINUTE, statistic: 'Maximum' }),
      atLeast: 1,
      minutes: 1,
    });
  }

  private proxies({ balancer, targets, log }: Proxy): void {
    this.errors('Proxy', log);
    this.add('ProxyNotReady', 'A proxy is not ready: see its log, and whether Redis answers.', {
      metric: targets.metrics.unhealthyHostCount({ ...EACH_MINUTE, statistic: 'Minimum' }),
      atLeast: 1,
      minutes: 5,
    });
    this.add('BalancerErrors', 'The balancer answers clients with errors of its own: no proxy took them.', {
      metric: balancer.metrics.httpCodeElb(HttpCodeElb.ELB_5XX_COUNT, EACH_MINUTE),
      atLeast: 10,
      minutes: 3,
    });
    this.add('ProxiesRefuse', 'Proxies take no connections: they may have too many.', {
      metric: targets.metrics.targetConnectionErrorCount(EACH_MINUTE),
      atLeast: 5,
      minutes: 3,
    });
  }

  /**
   * The program writes an error where somebody should look: a start or a look that failed, a message that could not be
   * brought, a request that ended in a 5xx. What one client caused, or the next look mends, is a warning.
   */
  private errors(whose: string, log: logs.LogGroup): void {
    const filter = new logs.MetricFilter(this, `${whose}ErrorLines`, {
      logGroup: log,
      filterPattern: logs.FilterPattern.stringValue('$.level', '=', 'ERROR'),
      metricNamespace: 'WallCrawler/Log',
      metricName: `${log.stack.stackName}-${whose}Errors`,
      metricValue: '1',
    });
    this.add(`${whose}Log`, `${whose}: ten errors a minute in the log.`, {
      metric: filter.metric(EACH_MINUTE),
      atLeast: 10,
      minutes: 3,
    });
  }

  private add(id: string, alarmDescription: string, when: When): void {
    const { ComparisonOperator, TreatMissingData } = cloudwatch;
    const below = 'below' in when;
    const alarm = new cloudwatch.Alarm(this, id, {
      alarmDescription,
      metric: when.metric,
      evaluationPeriods: when.minutes,
      threshold: below ? when.below : when.atLeast,
      comparisonOperator: below
        ? ComparisonOperator.LESS_THAN_THRESHOLD
        : ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
      // Most of it is not told where nothing happens.
      treatMissingData: below ? TreatMissingData.BREACHING : TreatMissingData.NOT_BREACHING,
    });
    alarm.addAlarmAction(new SnsAction(this.topic));
    this.all.push(alarm);
  }
}
