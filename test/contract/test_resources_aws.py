"""The contract of an algorithm's resources on AWS, with containers that ECS runs."""

import pytest
from aws_workers import OnFargate

from medical_image_processing import naming
from medical_image_processing.model.job import JobStatus
from medical_image_processing.testing.resources_contract import (
    ALGO,
    EnginePorts,
    ResourcesContract,
    eventually,
    provide,
)

CHECKED_OTHERWISE = {
    "S3 (earlier keys below another algorithm's prefix)": (
        "IAM can't say it: a legacy role's policy is one pattern. Delivery refuses such a result on every engine "
        "(test_delivery.py), and the role opens nothing else (here)."
    ),
    "S4 (running_count while the last jobs end)": (
        "The emulator's UpdateService answers only when the containers are gone. That tasks which are stopping or "
        "protected count is shown on ECS's own answers (test_services_aws_answers.py); that the running job ends, "
        "here."
    ),
}


class TestResourcesOnFargate(OnFargate, ResourcesContract):
    def test_s3_the_earlier_keys_are_open_exactly_while_the_role_says_so(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec(desired_count=0))
            for legacy in (True, False):
                await ports.resources.put_role(ALGO, legacy_output_keys=legacy)
                observed = await ports.resources.observe(ALGO)
                assert observed.role_is_legacy is legacy and not observed.drifted
                for key, may in (
                    (f"study-1/image-1_{ALGO}.dcm", legacy),
                    ("study-1/image-1_other.dcm", False),
                    (f"study-1/image-1_{ALGO}.dcm.txt", False),
                    (f"study-1/image-1_{ALGO}-2.dcm", False),
                    (f"{ALGO}/study-1/image-1.dcm", True),
                    ("puppet-2/study-1/image-1.dcm", False),
                ):
                    assert await ports.allowed(ALGO, "s3:PutObject", key) is may, key
                assert not await ports.allowed(ALGO, "s3:GetObject", f"study-1/image-1_{ALGO}.dcm")

        self.run(work)

    def test_s4_p7_a_running_job_ends_when_the_count_goes_to_nothing(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec())
            await ports.occupy("long")
            await ports.submit("waits")
            await ports.let_go_after(provide(ports, ports.spec(desired_count=0)))
            job = await ports.until("long", JobStatus.SUCCEEDED)
            assert job.attempts == 1
            service = (await ports.resources.observe(ALGO)).service
            assert service and (service.desired_count, service.running_count) == (0, 0)
            assert (await ports.job("waits")).status is JobStatus.QUEUED

            async def is_given_back() -> bool:
                return await ports.queues.depth(naming.queue(ALGO)) == 1

            await eventually(is_given_back, "the job that waits is on the queue")

        self.run(work)

    @pytest.mark.parametrize("act", ["leave", "hang"])
    def test_one_death_is_no_failure_of_the_service(self, act: str) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec(env={**ports.spec().env, "MIP_TIME_LIMIT_S": "1"}))
            await ports.submit("deadly", do=act)

            async def has_died() -> bool:
                tail = (await ports.logs.read(ALGO, lines=100)).lines
                return sum('"ready"' in line for line in tail) >= 2

            await eventually(has_died, "another worker has come up")
            service = (await ports.resources.observe(ALGO)).service
            assert service and service.failure is None

        self.run(work)
