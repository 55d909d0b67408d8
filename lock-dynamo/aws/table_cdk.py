"""The lock table of onelock's native schema: `cdk deploy --app 'python3 table_cdk.py'`."""

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb

app = cdk.App()
stack = cdk.Stack(app, "Locks")
dynamodb.Table(
    stack,
    "Table",
    # As in dynamodb://locks.
    table_name="locks",
    partition_key=dynamodb.Attribute(name="key", type=dynamodb.AttributeType.STRING),
    billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
    time_to_live_attribute="collect_at",
    deletion_protection=True,
    removal_policy=cdk.RemovalPolicy.RETAIN,
)
app.synth()
