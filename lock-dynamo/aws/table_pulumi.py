"""The lock table of onelock's native schema, as a program of Pulumi."""

import pulumi_aws as aws

table = aws.dynamodb.Table(
    "locks",
    # As in dynamodb://locks.
    name="locks",
    billing_mode="PAY_PER_REQUEST",
    hash_key="key",
    attributes=[aws.dynamodb.TableAttributeArgs(name="key", type="S")],
    ttl=aws.dynamodb.TableTtlArgs(attribute_name="collect_at", enabled=True),
    deletion_protection_enabled=True,
)
