"""The laws of provisioning on AWS, with containers that ECS runs."""

from aws_workers import OnFargate

from medical_image_processing.testing.provisioner_contract import ProvisionerContract


class TestProvisionerOnFargate(OnFargate, ProvisionerContract):
    pass
