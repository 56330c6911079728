"""The contract of an algorithm's resources on AWS, with containers that ECS runs."""

from aws_workers import OnFargate

from medical_image_processing.testing.resources_contract import ResourcesContract


class TestResourcesOnFargate(OnFargate, ResourcesContract):
    pass
