/** What must be secret: the API keys, and what tokens are made from. */
import { RemovalPolicy, SecretValue, Validations } from 'aws-cdk-lib';
import * as secretsmanager from 'aws-cdk-lib/aws-secretsmanager';
import { Construct } from 'constructs';

import type { Home } from './home.js';
import { allow } from './permissions.js';

export class Secrets extends Construct {
  readonly apiKeys: secretsmanager.Secret;
  readonly tokens: secretsmanager.Secret;

  constructor(scope: Construct, id: string, keepData: boolean) {
    super(scope, id);
    const removalPolicy = keepData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY;
    this.apiKeys = new secretsmanager.Secret(this, 'ApiKeys', {
      description: 'Who may use WallCrawler: its API keys, as their hashes',
      // Nobody, at first. What people put there stays: CloudFormation writes it again only if this line changes.
      secretStringValue: SecretValue.unsafePlainText('{"API_KEYS": []}'),
      removalPolicy,
    });
    this.tokens = new secretsmanager.Secret(this, 'Tokens', {
      description: 'What the tokens of WallCrawler are made from',
      generateSecretString: { passwordLength: 64, excludePunctuation: true },
      removalPolicy,
    });
    for (const secret of [this.apiKeys, this.tokens]) {
      Validations.of(secret).acknowledge({
        id: 'AwsSolutions-SMG4',
        reason:
          'People rotate both (README, Rotating secrets): a schedule could do it twice within a session, and so end it.',
      });
    }
  }

  grantRead(home: Home): void {
    // They are encrypted with the account's own key, which whoever may read a secret may use.
    allow(home.role, {
      actions: ['secretsmanager:GetSecretValue'],
      resources: [this.apiKeys.secretArn, this.tokens.secretArn],
    });
    home.variables.set(this, {
      API_KEYS_SECRET_ARN: this.apiKeys.secretArn,
      JWE_SECRET_ARN: this.tokens.secretArn,
    });
  }
}
