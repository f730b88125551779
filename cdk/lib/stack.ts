/** All of a stage, put together. What each part is stands in its own file; here stands who needs what of whom. */
import { CfnOutput, Stack, Tags, type StackProps } from 'aws-cdk-lib';
import type { Construct } from 'constructs';

import { Alarms } from './alarms.js';
import { Browsers } from './browsers.js';
import { ControlPlane } from './control-plane.js';
import { Dashboard } from './dashboard.js';
import { Gateway } from './gateway.js';
import { LogMetrics } from './logged.js';
import { Network } from './network.js';
import { Policy } from './policy.js';
import { Proxy } from './proxy.js';
import { Redis } from './redis.js';
import { Secrets } from './secrets.js';
import { type Settings, type Stage, examples, faults } from './settings.js';
import { Storage } from './storage.js';
import { Watched } from './watched.js';

export interface WallCrawlerProps extends StackProps {
  stage: Stage;
  settings: Settings;
  /** Only to be looked at: settings may still be examples, and the function need not have been built. */
  draft: boolean;
}

export class WallCrawler extends Stack {
  /** Whatever runs the control plane. */
  readonly homes: { controlPlane: ControlPlane; proxy?: Proxy };

  constructor(scope: Construct, id: string, { stage, settings, draft, ...props }: WallCrawlerProps) {
    super(scope, id, { description: `WallCrawler, ${stage}: Chromium sessions for browser agents`, ...props });
    const wrong = [...faults(settings), ...(draft ? [] : examples(settings))];
    if (wrong.length > 0) throw new Error(`cdk/lib/settings.ts, ${stage}: ${wrong.join('; ')}`);
    Tags.of(this).add('wallcrawler:stage', stage);

    const network = new Network(this, 'Network', settings.network, settings.logDays);
    const redis = new Redis(this, 'Redis', network, settings.redis, settings.keepData);
    const secrets = new Secrets(this, 'Secrets', settings.keepData);
    const storage = new Storage(this, 'Storage', settings.keepData);
    const browsers = new Browsers(this, 'Browsers', network, settings);
    const controlPlane = new ControlPlane(this, 'ControlPlane', network, settings, draft);
    const gateway = settings.websocketApi ? new Gateway(this, 'Gateway', controlPlane.function) : undefined;
    const proxy = settings.proxy && new Proxy(this, 'Proxy', network, browsers.cluster, settings, settings.proxy);
    const policy = new Policy(this, 'Policy', stage, settings, controlPlane.api.apiEndpoint);

    for (const home of [controlPlane, ...(proxy ? [proxy] : [])]) {
      network.connect(home);
      redis.connect(home);
      secrets.grantRead(home);
      storage.grantUse(home);
      browsers.grantLaunch(home);
      gateway?.grantPush(home);
      policy.tell(home);
    }
    controlPlane.listen(browsers.cluster);
    this.homes = { controlPlane, proxy };

    const homes = { ControlPlane: controlPlane.log, ...(proxy && { Proxy: proxy.log }) };
    const logged = new LogMetrics(this, 'Logged', homes);
    const watched = new Watched(settings, controlPlane, browsers, redis, logged, proxy);
    new Dashboard(this, 'Dashboard', watched, new Alarms(this, 'Alarms', watched));
    this.tell(stage, settings, secrets, browsers, gateway);
  }

  private tell(stage: Stage, settings: Settings, secrets: Secrets, browsers: Browsers, gateway?: Gateway): void {
    const { controlPlane, proxy } = this.homes;
    const outputs: Record<string, string | undefined> = {
      ApiUrl: controlPlane.api.apiEndpoint,
      WebSocketUrl: gateway?.url,
      CdpEndpoint: settings.proxy && `wss://${settings.proxy.domain}/cdp`,
      ProxyDnsName: proxy?.balancer.loadBalancerDnsName,
      Cluster: browsers.cluster.clusterName,
      ApiKeysSecret: secrets.apiKeys.secretArn,
      TokensSecret: secrets.tokens.secretArn,
      AddAnApiKey: `scripts/api-key ${stage} --name "whose it is"`,
    };
    for (const [name, value] of Object.entries(outputs)) {
      if (value !== undefined) new CfnOutput(this, name, { value });
    }
  }
}
