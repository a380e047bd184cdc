"""Makes the buckets that the settings name, where they are missing. For the S3 server of docker-compose.yml."""

from __future__ import annotations

import sys

import boto3
from botocore.exceptions import ClientError

from config.settings import Settings


def main() -> int:
    settings = Settings.load().settings
    client = boto3.client("s3", endpoint_url=settings.s3_endpoint, region_name=settings.s3_region)
    for bucket in sorted({place.split("/")[0] for place in settings.s3_buckets}):
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            client.create_bucket(Bucket=bucket)
            print(f"{bucket}: made")
        else:
            print(f"{bucket}: there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
