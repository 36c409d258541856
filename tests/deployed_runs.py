"""Runs of a deployment in the test's own process: they can be suspended, answered and gone on with."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_sync
from prefect.states import AwaitingRetry

FORM = {"approver": "Ada", "reason": "rows were deleted by mistake"}


class DeployedRun:
    """A run of a flow, as a deployment makes it.

    Args:
        flow: What is run.
        parameters: Of the run.
    """

    def __init__(self, flow: Flow[..., Any], **parameters: Any) -> None:
        self._flow = flow
        with get_client(sync_client=True) as client:
            flow_id = client.create_flow(flow)
            deployment = client.create_deployment(flow_id=flow_id, name=f"of-a-test-{uuid4()}", tags=["of-a-test"])
            self.id: UUID = client.create_flow_run_from_deployment(deployment, parameters=parameters).id

    def read(self) -> FlowRun:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(self.id)

    @property
    def state(self) -> State[Any]:
        state = self.read().state
        assert state is not None
        return state

    def go_on(self) -> State[Any]:
        """What a worker would do: run it until it ends or is suspended."""
        run = self.read()
        try:
            run_flow_sync(self._flow, flow_run=run, parameters=run.parameters, return_type="state")
        except Pause:
            assert self.state.name == "Suspended"
        return self.state

    def form(self) -> dict[str, Any]:
        """The schema of what it asks, by field."""
        keyset = self.state.state_details.run_input_keyset
        assert keyset is not None
        fields: dict[str, Any] = self._input(keyset["schema"])["properties"]
        return fields

    def description(self) -> str:
        keyset = self.state.state_details.run_input_keyset
        assert keyset is not None
        return str(self._input(keyset["description"]))

    def answer(self, **changes: Any) -> dict[str, Any]:
        """Answer as the pages do: HTTP 200 or 201, and in it whether it was taken."""
        form = self.form()
        said = FORM | {"plan": form["plan"]["examples"][0], "typed": form["typed"]["examples"][0]} | changes
        return self.resume({name: value for name, value in said.items() if value is not None})

    def resume(self, said: Mapping[str, Any] | None) -> dict[str, Any]:
        with get_client(sync_client=True) as client:
            answered = client.request("POST", f"/flow_runs/{self.id}/resume", json={"run_input": said})
            assert answered.status_code in (200, 201)
            found: dict[str, Any] = answered.json()
            return found

    def retry(self) -> None:
        """As the pages do with a run that ended."""
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self.id, AwaitingRetry())

    def artifacts(self) -> dict[str, str]:
        with get_client(sync_client=True) as client:
            body = {"flow_runs": {"id": {"any_": [str(self.id)]}}}
            found = client.request("POST", "/artifacts/filter", json=body).json()
        return {artifact["key"]: str(artifact["data"]) for artifact in found}

    def _input(self, key: str) -> Any:
        with get_client(sync_client=True) as client:
            return client.request("GET", f"/flow_runs/{self.id}/input/{key}").json()
