"""`prefect.yaml`, strictly: Prefect itself passes over keys that it does not know in silence."""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from keepwell.errors import ConfigurationError

DEPLOYMENT_FILE = Path(__file__).resolve().parent.parent / "prefect.yaml"

POOL = "keepwell"
WATCHED = "watched"
BACKUP = "backup-and-verify"
EXPIRE = "expire-backups"
REPORT = "report-failure"
# Between two signs of life of a run; a number of its own in prefect.yaml, since the runs' processes read it from there.
HEARTBEAT_SECONDS = 30


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScheduleSpec(_Strict):
    """When a deployment starts by itself."""

    cron: str = Field(pattern=r"^\S+( \S+){4}$")
    timezone: str
    slug: str = Field(pattern=r"^[a-z][a-z0-9-]*$")


class LimitSpec(_Strict):
    """How many runs at once; CANCEL_NEW would wedge a deployment behind a run that never came up."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE"]
    grace_period_seconds: int = Field(ge=60)


class EnvironmentSpec(_Strict):
    """What every run's process gets, wherever its worker runs."""

    PREFECT_FLOWS_HEARTBEAT_FREQUENCY: str = Field(pattern=f"^{HEARTBEAT_SECONDS}$")


class JobSpec(_Strict):
    """How its process is started. All of this is stored in plain text, so nothing else may stand here."""

    env: EnvironmentSpec


class PoolSpec(_Strict):
    """Where it runs."""

    name: Literal["keepwell"]
    work_queue_name: Literal["platform", "watch"] = Field(description="`platform`: the platform's own queue.")
    job_variables: JobSpec


class DeploymentSpec(_Strict):
    """One procedure, deployed once for each platform where its flow takes one."""

    name: str = Field(pattern=r"^[a-z]+(-[a-z]+)*$")
    description: str = Field(min_length=10)
    entrypoint: str = Field(pattern=r"^flows\.(\w+)\.(\w+)$")
    tags: tuple[str, ...]
    parameters: dict[str, Any] = Field(description="Besides the platform, which the registration adds.")
    enforce_parameter_schema: Literal[True]
    schedules: tuple[ScheduleSpec, ...]
    concurrency_limit: LimitSpec | None = None
    work_pool: PoolSpec

    @model_validator(mode="after")
    def _bears_its_flow_s_name(self) -> Self:
        if self.entrypoint != f"flows.{self.flow}.{self.flow}":
            message = f"{self.name} must run flows.{self.flow}.{self.flow}"
            raise ValueError(message)
        if (WATCHED in self.tags) == (self.name == REPORT):
            message = f"every deployment but {REPORT} is tagged {WATCHED}: that one would report itself for ever"
            raise ValueError(message)
        if (self.work_pool.work_queue_name == "platform") and not self.per_platform:
            message = f"{self.name} is of no platform, so it has no platform's queue"
            raise ValueError(message)
        return self

    @property
    def per_platform(self) -> bool:
        """Whether each platform has one: what tells of failed runs is one for all."""
        return self.name != REPORT

    @property
    def flow(self) -> str:
        """Name of the flow's module and function."""
        return self.name.replace("-", "_")


class DeploymentFile(_Strict):
    """The whole file."""

    name: Literal["keepwell"]
    pull: tuple[()]
    definitions: dict[str, Any] = Field(description="YAML anchors, used below.")
    deployments: tuple[DeploymentSpec, ...] = Field(min_length=1)


def read_deployment_file(path: Path = DEPLOYMENT_FILE) -> DeploymentFile:
    """Read and check `prefect.yaml`.

    Raises:
        ConfigurationError: It is not there, not YAML, or says something that Prefect would pass over.
    """
    try:
        return DeploymentFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.", hint="Restore it from the repository.") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ConfigurationError(f"{path.name}: {place}: {fault['msg']}.", hint="Correct it there.") from None
