"""The laws of provisioning on the embedded engine, with either runtime."""

from embedded_engine import InContainers, OnProcesses

from medical_image_processing.testing.provisioner_contract import ProvisionerContract


class TestProvisionerOnProcesses(OnProcesses, ProvisionerContract):
    pass


class TestProvisionerInContainers(InContainers, ProvisionerContract):
    pass
