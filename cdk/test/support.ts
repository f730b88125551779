/** The stages as `cdk synth` makes them. */
import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import { App, Validations } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { AwsSolutionsChecks } from 'cdk-nag';

import { ROOT } from '../lib/images.js';
import { type Settings, type Stage, stages } from '../lib/settings.js';
import { WallCrawler } from '../lib/stack.js';

export interface Made {
  stack: WallCrawler;
  template: Template;
}

export type Properties = Record<string, unknown>;

const { context } = JSON.parse(readFileSync(path.join(ROOT, 'cdk/cdk.json'), 'utf8')) as { context: Properties };

/** Without what CDK itself finds wrong: `make synth` fails by that, and here it would take most of the time. */
function app(): App {
  return new App({ context: { ...context, '@aws-cdk/core:validateAgainstDefaultRules': false } });
}

export function make(stage: Stage, change: Partial<Settings> = {}, draft = true): Made {
  const settings: Settings = { ...stages[stage], ...change };
  const stack = new WallCrawler(app(), `WallCrawler-${stage}`, { stage, settings, draft });
  return { stack, template: Template.fromStack(stack) };
}

/** With all that CDK and AWS's rules find wrong: it throws. */
export function check(stage: Stage, change: Partial<Settings>): void {
  const checked = new App({ context });
  const settings: Settings = { ...stages[stage], ...change };
  new WallCrawler(checked, `WallCrawler-${stage}`, { stage, settings, draft: true });
  Validations.of(checked).addPlugins(new AwsSolutionsChecks(checked));
  checked.synth();
}

const made = new Map<Stage, Made>();
/** Each is made once: it takes a second. */
export function stage(name: Stage): Made {
  const there = made.get(name) ?? make(name);
  made.set(name, there);
  return there;
}

export const STAGES = Object.keys(stages) as Stage[];

/** The properties of all resources of a type whose logical id begins so. */
export function resources({ template }: Made, type: string, beginning = ''): Properties[] {
  const found = Object.entries(template.findResources(type)).filter(([id]) => id.startsWith(beginning));
  return found.map(([, resource]) => (resource as { Properties?: Properties }).Properties ?? {});
}

export function only({ template }: Made, type: string, beginning = ''): Properties {
  const found = resources({ template } as Made, type, beginning);
  if (found.length !== 1) throw new Error(`${found.length} of ${type} begin with ${beginning}`);
  return found[0]!;
}

/** The statements of a role's policy that allow an action. */
export function statements(made: Made, role: string): Properties[] {
  const policies = resources(made, 'AWS::IAM::Policy', role);
  return policies.flatMap((policy) => (policy.PolicyDocument as { Statement: Properties[] }).Statement);
}

export function rust(file: string): string {
  return readFileSync(path.join(ROOT, file), 'utf8');
}
