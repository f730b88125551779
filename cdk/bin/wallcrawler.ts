/**
 * The stages as stacks: all of them, or the one that is named.
 *
 *     cdk synth -c draft=true              all, to look at
 *     cdk deploy -c stage=dev              one, in earnest: `make deploy STAGE=dev`
 */
import { App, Validations } from 'aws-cdk-lib';
import { AwsSolutionsChecks } from 'cdk-nag';

import { type Stage, isStage, stages } from '../lib/settings.js';
import { WallCrawler } from '../lib/stack.js';

const app = new App();
const named: unknown = app.node.tryGetContext('stage');
const draft = app.node.tryGetContext('draft') === 'true';
if (named !== undefined && !(typeof named === 'string' && isStage(named))) {
  throw new Error(`stage=${String(named)}: there are ${Object.keys(stages).join(', ')}`);
}
const chosen = named === undefined ? (Object.keys(stages) as Stage[]) : [named];
for (const stage of chosen) {
  new WallCrawler(app, `WallCrawler-${stage}`, { stage, settings: stages[stage], draft });
}
// What it finds fails the synthesis, unless it is acknowledged beside the resource.
Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
