"""The platform on AWS: the ports over DynamoDB, SQS, S3, ECS and API Gateway.

Nothing here keeps state of its own, so any number of Lambdas may run it side by side. boto3 is synchronous and
the ports are not: calls go through threads, and through :mod:`clients` alone.
"""
