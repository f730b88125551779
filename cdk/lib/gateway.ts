/** The WebSocket API, which holds clients' sockets where no proxy runs. Each message is an invocation of the function. */
import { ArnFormat, Stack, Validations } from 'aws-cdk-lib';
import * as apigateway from 'aws-cdk-lib/aws-apigatewayv2';
import { WebSocketLambdaIntegration } from 'aws-cdk-lib/aws-apigatewayv2-integrations';
import type { IFunction } from 'aws-cdk-lib/aws-lambda';
import { Construct } from 'constructs';

import type { Home } from './home.js';
import { allow } from './permissions.js';

const STAGE = 'prod';

export class Gateway extends Construct {
  readonly api: apigateway.WebSocketApi;
  readonly url: string;

  constructor(scope: Construct, id: string, target: IFunction) {
    super(scope, id);
    const integration = (event: string) => new WebSocketLambdaIntegration(event, target);
    this.api = new apigateway.WebSocketApi(this, 'Api', {
      apiName: `${Stack.of(this).stackName}-sockets`,
      // There is one route for all messages, so what selects it does not matter; but there must be something.
      routeSelectionExpression: '$request.body.method',
      // Without a response of the route a client that is refused learns only that, and not why.
      connectRouteOptions: { integration: integration('Connect'), returnResponse: true },
      defaultRouteOptions: { integration: integration('Message') },
      disconnectRouteOptions: { integration: integration('Disconnect') },
    });
    const stage = new apigateway.WebSocketStage(this, 'Stage', {
      webSocketApi: this.api,
      stageName: STAGE,
      autoDeploy: true,
      throttle: { rateLimit: 2_000, burstLimit: 1_000 },
    });
    this.url = stage.url;
    Validations.of(this).acknowledge(
      { id: 'AwsSolutions-APIG4', reason: 'The function checks the token of the session, which is in the query.' },
      {
        id: 'AwsSolutions-APIG1',
        reason: 'It would take a role set for all APIs of the account, and the function logs each of its requests.',
      },
    );
  }

  /** The permission to send messages to clients and to close their connections. */
  grantPush(home: Home): void {
    const connections = (method: string) =>
      Stack.of(this).formatArn({
        service: 'execute-api',
        resource: this.api.apiId,
        resourceName: `${STAGE}/${method}/@connections/*`,
        arnFormat: ArnFormat.SLASH_RESOURCE_NAME,
      });
    allow(home.role, {
      actions: ['execute-api:ManageConnections'],
      resources: [connections('POST'), connections('DELETE')],
      why: 'All connections of this one API: they come and go.',
    });
    home.variables.set(this, { WEBSOCKET_API_ID: this.api.apiId, WEBSOCKET_STAGE: STAGE });
  }
}
