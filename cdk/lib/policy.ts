/** What every home of the control plane goes by, and where it and its containers are found. */
import { Construct } from 'constructs';

import type { Home } from './home.js';
import type { Settings, Stage } from './settings.js';

export class Policy extends Construct {
  /**
   * Where containers ask for work. Where there are proxies they are asked: a claim waits there for nothing, and is
   * woken. At the function each waiting claim is an invocation.
   */
  private readonly apiEndpoint: string;

  constructor(
    scope: Construct,
    id: string,
    private readonly stage: Stage,
    private readonly settings: Settings,
    apiUrl: string,
  ) {
    super(scope, id);
    this.apiEndpoint = settings.proxy ? `https://${settings.proxy.domain}` : apiUrl;
  }

  /** All homes are told the same, to the letter: by some of it they know each other's tasks. */
  tell(home: Home): void {
    const { limits, proxy } = this.settings;
    home.variables.set(this, {
      // What dev allows is good on one's own machine only.
      ENVIRONMENT: this.stage === 'prod' ? 'prod' : 'staging',
      API_ENDPOINT: this.apiEndpoint,
      MAX_PENDING_SESSIONS: String(limits.maxPendingSessions),
      MAX_SESSIONS_PER_USER: String(limits.maxSessionsPerUser),
      CREATES_PER_MINUTE: String(limits.createsPerMinute),
      ...(proxy && { CDP_ENDPOINT: proxy.domain }),
    });
  }
}
