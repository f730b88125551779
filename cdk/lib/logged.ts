/** Metrics that are read out of the log lines which the program writes anyway: whoever writes them pays nothing for it. */
import { Duration, Stack } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Construct } from 'constructs';

const NAMESPACE = 'WallCrawler/Log';

/** A line, by its message; and what is read of it, in milliseconds, if it is not just counted. */
export interface Line {
  messages: string[];
  field?: string;
}

/** As src/lifecycle.rs and src/ws write them: a test compares. */
export const LINES = {
  /** From the creation of a session to its claim by a container. */
  QueueTime: { messages: ['session claimed'], field: 'queue.duration_ms' },
  /** From there to the first answer of its browser. */
  ReadyTime: { messages: ['session ready'], field: 'duration_ms' },
  /** What could not be brought from a client to its container, or back. */
  RelayErrors: {
    messages: ['container could not be dialled', 'a message was not brought', 'not all could be delivered'],
  },
} satisfies Record<string, Line>;
export type Logged = keyof typeof LINES;

export class LogMetrics extends Construct {
  private readonly prefix: string;

  /** Of all homes of the control plane together: which of them a client or a container has asked makes no difference. */
  constructor(scope: Construct, id: string, homes: Record<string, logs.LogGroup>) {
    super(scope, id);
    this.prefix = `${Stack.of(this).stackName}-`;
    for (const [home, logGroup] of Object.entries(homes)) {
      for (const [name, line] of Object.entries<Line>(LINES)) {
        const messages = line.messages.map((message) => logs.FilterPattern.stringValue('$.message', '=', message));
        new logs.MetricFilter(this, `${home}${name}`, {
          logGroup,
          filterPattern: logs.FilterPattern.any(...messages),
          metricNamespace: NAMESPACE,
          metricName: this.name(name),
          // A name with a dot in it.
          metricValue: line.field ? `$.['${line.field}']` : '1',
          unit: line.field ? cloudwatch.Unit.MILLISECONDS : cloudwatch.Unit.COUNT,
        });
      }
    }
  }

  metric(of: Logged, statistic: string): cloudwatch.Metric {
    return new cloudwatch.Metric({
      namespace: NAMESPACE,
      metricName: this.name(of),
      statistic,
      period: Duration.minutes(1),
      label: `${of} ${statistic}`,
    });
  }

  private name(of: string): string {
    return `${this.prefix}${of}`;
  }
}
