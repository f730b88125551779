/**
 * Where files of sessions are kept: extensions, contexts, downloads. The control plane has the key to it; a container or a
 * client gets from it the address of one file, for one use and for a while.
 */
import { Duration, RemovalPolicy, Validations } from 'aws-cdk-lib';
import * as s3 from 'aws-cdk-lib/aws-s3';
import { Construct } from 'constructs';

import type { Home } from './home.js';
import { allow } from './permissions.js';

export class Storage extends Construct {
  private readonly bucket: s3.Bucket;

  constructor(scope: Construct, id: string, keepData: boolean) {
    super(scope, id);
    this.bucket = new s3.Bucket(this, 'Files', {
      encryption: s3.BucketEncryption.S3_MANAGED,
      blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
      objectOwnership: s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
      enforceSSL: true,
      versioned: keepData,
      removalPolicy: keepData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY,
      lifecycleRules: [
        { abortIncompleteMultipartUploadAfter: Duration.days(1), noncurrentVersionExpiration: Duration.days(7) },
        { prefix: 'downloads/', expiration: Duration.days(7) },
        { prefix: 'logs/', expiration: Duration.days(7) },
        // They are content-addressed: who still needs one uploads it again.
        { prefix: 'extensions/', expiration: Duration.days(90) },
      ],
    });
    Validations.of(this.bucket).acknowledge({
      id: 'AwsSolutions-S1',
      reason: 'A log of accesses would have to be kept in a second bucket of this kind.',
    });
  }

  /** The permission to read, write and sign for files, and where they are. */
  grantUse(home: Home): void {
    allow(home.role, {
      actions: ['s3:GetObject', 's3:PutObject', 's3:DeleteObject'],
      resources: [this.bucket.arnForObjects('*')],
      why: 'All files of this one bucket: they come and go, and each is named after its owner.',
    });
    // Without it S3 says of a file that is not there that it may not be read.
    allow(home.role, { actions: ['s3:ListBucket'], resources: [this.bucket.bucketArn] });
    home.variables.set(this, { STORAGE_BUCKET: this.bucket.bucketName });
  }
}
