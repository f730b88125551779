/**
 * The program says by which variables it is configured; the stack says them. Here both lists are compared: what the
 * program reads is either set by one construct, or told to a container when it is started, or left alone for a reason.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Line, LINES } from '../lib/logged.js';
import { FLEET_METRICS } from '../lib/watched.js';
import { STAGES, only, rust, stage } from './support.js';

/** Every text in a program that looks like the name of a variable, its tests left out. */
function names(file: string): string[] {
  const program = rust(file).split('#[cfg(test)]\nmod tests')[0] ?? '';
  return [...program.matchAll(/"(?!CARGO_)([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)"/g)].map((match) => match[1]!);
}

const CONTROL_PLANE = ['src/config.rs', 'src/config/aws.rs'];
const CONTAINER = ['src/agent/config.rs', 'src/agent/find.rs'];
const BOTH = ['src/main.rs'];

/** What the program reads in the cloud, and nobody here sets. */
const ELSEWHERE: Record<string, string> = {
  AWS_REGION: 'Lambda and Fargate set it',
  AWS_LAMBDA_RUNTIME_API: 'Lambda sets it',
  ECS_CONTAINER_METADATA_URI_V4: 'Fargate sets it',
  HOME: 'the image has it',
  PATH: 'the image has it',
};

/** Why nobody sets it: of the control plane, and of containers. */
const AS_MEANT = 'its default is meant for the cloud, too';
const CHILDREN = 'for child processes on one machine';
const LEFT_ALONE = {
  controlPlane: {
    ACCEPT_SIGNED_TOKENS: 'only for older clients',
    ALB_DNS_NAME: 'CDP_ENDPOINT goes before it, and has a certificate',
    API_KEYS: 'API_KEYS_SECRET_ARN instead',
    AWS_DEFAULT_REGION: 'AWS_REGION goes before it',
    AWS_ENDPOINT_URL: 'for stand-ins for AWS',
    AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI: 'for stand-ins for AWS',
    BROWSER_TIMEOUT_SECONDS: AS_MEANT,
    CHROME_HEADLESS_SHELL_PATH: CHILDREN,
    CHROME_PATH: CHILDREN,
    CONNECT_WAIT_SECONDS: AS_MEANT,
    CORS_ORIGINS: 'keys are for programs, not for pages',
    DISCONNECT_GRACE_SECONDS: AS_MEANT,
    ECS_SERVICE_NAME: 'there is no service that runs browsers',
    EMULATOR_DELAY_SECONDS: 'for tests',
    EMULATOR_LOSE_DISCONNECT: 'for tests',
    FONTCONFIG_PATH: CHILDREN,
    JWE_SECRET: 'JWE_SECRET_ARN instead',
    LANG: CHILDREN,
    MAX_SOCKETS: AS_MEANT,
    NEVER_CONNECTED_SECONDS: AS_MEANT,
    PUBLIC_URL: 'requests name it',
    QUEUE_TIMEOUT_SECONDS: AS_MEANT,
    RUST_BACKTRACE: CHILDREN,
    SECRETS_MAX_AGE_SECONDS: AS_MEANT,
    SESSION_RETENTION_SECONDS: AS_MEANT,
    STORAGE_DIR: 'STORAGE_BUCKET instead',
    START_TIMEOUT_SECONDS: 'with ECS it has another default, which is meant for it',
    TMPDIR: 'nothing is written to it',
    TOKEN_AUDIENCE: 'each stage has a secret of its own',
    TRUSTED_PROXIES: 'CDP_ENDPOINT says how the proxy is reached, and the gateway speaks for itself',
    TZ: CHILDREN,
    XDG_RUNTIME_DIR: CHILDREN,
  },
  container: {
    BIND: 'where the API is no loopback address it listens to all',
    CHROME_HEADLESS_SHELL_PATH: 'Debian puts it where it is looked for',
    CHROME_PATH: 'Debian puts it where it is looked for',
    CONTAINER_ADDRESS: 'what a task reaches the API from is what it is reached by',
    CONTAINER_WORKDIR: 'a task has a disk of its own',
    JWE_SECRET: 'only for `wallcrawler token`',
  },
} satisfies Record<string, Record<string, string>>;

/** What a container is told when it is started, by whoever starts it (`LaunchSpec::env`). */
const launch = new Set(names('src/container.rs'));

type Environment = { Name: string; Value: unknown }[];

function task(name: 'Browsers' | 'Proxy', of: Parameters<typeof stage>[0]): string[] {
  const definition = only(stage(of), 'AWS::ECS::TaskDefinition', name);
  const [container] = definition.ContainerDefinitions as { Environment?: Environment }[];
  return (container?.Environment ?? []).map((variable) => variable.Name);
}

/** Each of these variables is in exactly one of the places. */
function settled(files: string[], places: Record<string, { has(name: string): boolean }>): void {
  for (const name of new Set(files.flatMap(names))) {
    const found = Object.keys(places).filter((place) => places[place]!.has(name));
    assert.equal(
      found.length,
      1,
      `${name} is ${found.join(' and ') || 'in no place'}: say in this test where it comes from`,
    );
  }
}
const keys = (object: object) => new Set(Object.keys(object));

test('each variable that the control plane reads is set by one construct, or left alone for a reason', () => {
  // Of the stages, staging has all that there is to have.
  const { homes } = stage('staging').stack;
  const set = new Set([...homes.controlPlane.variables.setBy.keys(), ...homes.proxy!.variables.setBy.keys()]);
  settled([...CONTROL_PLANE, ...BOTH], {
    set,
    'set by AWS': keys(ELSEWHERE),
    'left alone': keys(LEFT_ALONE.controlPlane),
  });
});

test('each variable that a container reads comes with its task or its start, or is left alone for a reason', () => {
  settled([...CONTAINER, ...BOTH], {
    set: new Set(task('Browsers', 'staging')),
    'told at the start': launch,
    'set by AWS': keys(ELSEWHERE),
    'left alone': keys(LEFT_ALONE.container),
  });
});

test('nothing is set, told or left alone that the program does not read', () => {
  const { homes } = stage('staging').stack;
  const controlPlane = new Set([...CONTROL_PLANE, ...BOTH].flatMap(names));
  const container = new Set([...CONTAINER, ...BOTH].flatMap(names));
  for (const home of [homes.controlPlane, homes.proxy!]) {
    for (const name of home.variables.setBy.keys())
      assert.ok(controlPlane.has(name), `${name}, set by ${home.node.id}`);
  }
  for (const name of [...task('Browsers', 'staging'), ...launch])
    assert.ok(container.has(name), `${name}, of containers`);
  for (const name of keys(ELSEWHERE)) assert.ok(controlPlane.has(name) || container.has(name), `${name}, set by AWS`);
  for (const name of keys(LEFT_ALONE.controlPlane)) assert.ok(controlPlane.has(name), `${name}, left alone`);
  for (const name of keys(LEFT_ALONE.container)) assert.ok(container.has(name), `${name}, left alone by containers`);
});

test('what is set arrives in the template, at the function and at the proxies', () => {
  for (const name of STAGES) {
    const { homes } = stage(name).stack;
    const fn = only(stage(name), 'AWS::Lambda::Function', 'ControlPlane') as { Environment: { Variables: object } };
    assert.deepEqual(
      Object.keys(fn.Environment.Variables).sort(),
      [...homes.controlPlane.variables.setBy.keys()].sort(),
    );
    if (homes.proxy) assert.deepEqual(task('Proxy', name).sort(), [...homes.proxy.variables.setBy.keys()].sort());
  }
});

test('function and proxies are told the same, to the letter, by the same constructs', () => {
  const ownAffairs = new Set(['BIND', 'PORT', 'LOG_FORMAT', 'RUST_LOG', 'DRAIN_SECONDS', 'KEEP_ALIVE_SECONDS']);
  for (const name of STAGES) {
    const { controlPlane, proxy } = stage(name).stack.homes;
    if (!proxy) continue;
    const fn = only(stage(name), 'AWS::Lambda::Function', 'ControlPlane');
    const { Variables: atFunction } = fn.Environment as { Variables: Record<string, unknown> };
    const definition = only(stage(name), 'AWS::ECS::TaskDefinition', 'Proxy');
    const [container] = definition.ContainerDefinitions as { Environment: Environment }[];
    for (const { Name, Value } of container!.Environment) {
      if (ownAffairs.has(Name)) continue;
      assert.deepEqual(atFunction[Name], Value, `${name}: ${Name}`);
      assert.equal(controlPlane.variables.setBy.get(Name), proxy.variables.setBy.get(Name));
    }
    const common = Object.keys(atFunction).filter((variable) => !ownAffairs.has(variable));
    for (const variable of common)
      assert.ok(proxy.variables.setBy.has(variable), `${name}: the proxies miss ${variable}`);
  }
});

test('a variable that two constructs set is an error', () => {
  const { controlPlane } = stage('dev').stack.homes;
  assert.throws(() => controlPlane.variables.set(controlPlane, { KEY_PREFIX: 'x' }), /KEY_PREFIX is set by .*Redis/);
});

test('alarms and dashboard look at metrics that the function tells', () => {
  const embedded = rust('src/metrics.rs').split('pub fn embedded')[1]?.split('\n}\n')[0] ?? '';
  const told = [...embedded.matchAll(/\("(\w+)", "(?:Count|Milliseconds)"/g)].map((match) => match[1]);
  assert.deepEqual([...FLEET_METRICS], told);
  assert.match(embedded, /"Namespace": "WallCrawler", "Dimensions": \[\["FunctionName"\]\]/);
});

test('what is read out of the log is written by the program, with what is read of it', () => {
  const programs = ['src/lifecycle.rs', 'src/ws/mod.rs', 'src/ws/proxy.rs'].map(rust);
  // Each with what is written, its message last.
  const statements = programs.flatMap((program) => program.split(/tracing::\w+!\(/).slice(1));
  for (const [name, line] of Object.entries<Line>(LINES)) {
    for (const message of line.messages) {
      const written = statements.map((text) => text.split(`"${message}"`)).flatMap(([fields, rest]) => (rest === undefined ? [] : [fields!]));
      assert.equal(written.length, 1, `${name}: "${message}"`);
      if (line.field) assert.match(written[0]!, new RegExp(`[\\s(]${line.field} = `), name);
    }
  }
});

test('the image has the toolchain that the project is pinned to', () => {
  const pinned = /channel = "([\d.]+)"/.exec(rust('rust-toolchain.toml'))?.[1];
  assert.equal(/FROM rust:([\d.]+)-/.exec(rust('Dockerfile'))?.[1], pinned);
});

test('the function has the time to see who is lost, as it is configured', () => {
  const missed = Number(/MISSED_HEARTBEATS: u64 = (\d+)/.exec(rust('src/protocol.rs'))?.[1]);
  for (const name of STAGES) {
    const fn = only(stage(name), 'AWS::Lambda::Function', 'ControlPlane') as {
      Timeout: number;
      Environment: { Variables: Record<string, string> };
    };
    const heartbeat = Number(fn.Environment.Variables.HEARTBEAT_SECONDS);
    // And what listing the tasks may take (LIST_TIMEOUT in src/fleet/ecs.rs), with the margin at its end.
    assert.ok(fn.Timeout >= missed * heartbeat + 5 + 8 + 3, `${name}: ${fn.Timeout} s`);
  }
});
