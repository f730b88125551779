/** The two images of the Dockerfile at the root of the repository, and what their tasks have in common. */
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Platform } from 'aws-cdk-lib/aws-ecr-assets';
import { IgnoreMode, Validations } from 'aws-cdk-lib';
import * as ecs from 'aws-cdk-lib/aws-ecs';

import type { Architecture } from './settings.js';

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

/** `target` is a stage of the Dockerfile. It is built when the stack is deployed; before that, only its files are hashed. */
export function image(target: 'browser' | 'proxy', architecture: Architecture): ecs.ContainerImage {
  return ecs.ContainerImage.fromAsset(ROOT, {
    target,
    platform: architecture === 'arm64' ? Platform.LINUX_ARM64 : Platform.LINUX_AMD64,
    // As .dockerignore says it: nothing but what is compiled.
    ignoreMode: IgnoreMode.DOCKER,
  });
}

export function platform(architecture: Architecture): ecs.RuntimePlatform {
  return {
    cpuArchitecture: architecture === 'arm64' ? ecs.CpuArchitecture.ARM64 : ecs.CpuArchitecture.X86_64,
    operatingSystemFamily: ecs.OperatingSystemFamily.LINUX,
  };
}

/** For every task of ours. */
export function acknowledgeTask(task: ecs.FargateTaskDefinition): void {
  Validations.of(task).acknowledge({
    id: 'AwsSolutions-ECS2',
    reason: 'What stands in the environment is no secret: names, numbers, addresses. Secrets are read by their ARN.',
  });
  Validations.of(task.obtainExecutionRole()).acknowledge({
    id: 'AwsSolutions-IAM5[Resource::*]',
    reason: 'ecr:GetAuthorizationToken knows no resource.',
  });
}
