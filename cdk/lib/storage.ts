/**
 * Where files of sessions are kept: extensions, contexts, downloads. The program does not use it yet, so nobody has been
 * given access to it; who will need it gets a `grant...` here.
 */
import { Duration, RemovalPolicy, Validations } from 'aws-cdk-lib';
import * as s3 from 'aws-cdk-lib/aws-s3';
import { Construct } from 'constructs';

export class Storage extends Construct {
  constructor(scope: Construct, id: string, keepData: boolean) {
    super(scope, id);
    const bucket = new s3.Bucket(this, 'Files', {
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
    Validations.of(bucket).acknowledge({
      id: 'AwsSolutions-S1',
      reason: 'Nobody has access yet. A log of accesses would have to be kept in a second bucket of this kind.',
    });
  }
}
