"""The laws of provisioning on AWS, with containers that ECS runs."""

from aws_workers import OnFargate
from embedded_engine import Nobody

from medical_image_processing.control.admin import Admin
from medical_image_processing.control.provisioner.loop import Provisioner
from medical_image_processing.model.algorithm import AlgorithmPatch, AlgorithmStatus
from medical_image_processing.model.job import JobStatus
from medical_image_processing.testing.provisioner_contract import ProvisionerContract
from medical_image_processing.testing.resources_contract import ALGO, EnginePorts

CHECKED_OTHERWISE = {
    "P7 (ACTIVE while the last jobs end)": (
        "The emulator's UpdateService answers only when the containers are gone, five seconds after it asked them "
        "to at the most, whatever stopTimeout says. That the running job ends is shown here; that tasks which are "
        "stopping or protected count as running, and keep a removal waiting, on ECS's own answers "
        "(test_services_aws_answers.py); that no call stops a task, and that each has 120 s to end, on the "
        "provisioner's calls (test_provisioner_aws_crash.py)."
    ),
}


class TestProvisionerOnFargate(OnFargate, ProvisionerContract):
    def test_p7_a_change_and_a_scale_down_let_the_running_job_end(self) -> None:
        async def work(ports: EnginePorts) -> None:
            admin = Admin(ports.registry, ports.jobs)
            provisioner = Provisioner(ports.registry, ports.resources, ports.jobs, Nobody())
            await admin.register(ports.spec(), actor="anna")
            await provisioner.reconcile(ALGO)
            await ports.occupy("long")
            await admin.update(ALGO, AlgorithmPatch(cpu=2048, memory=4096), actor="anna")
            await ports.let_go_after(provisioner.reconcile(ALGO))
            assert (await admin.get(ALGO)).status is AlgorithmStatus.ACTIVE
            await admin.scale_down(ALGO, actor="anna")
            await provisioner.reconcile(ALGO)
            assert (await ports.until("long", JobStatus.SUCCEEDED)).attempts == 1
            await provisioner.reconcile(ALGO)
            assert (await admin.get(ALGO)).status is AlgorithmStatus.INACTIVE

        self.run(work)
