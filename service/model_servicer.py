"""ModelService: what this replica serves. Translates only."""

from typing import Any

from cellwire.v1 import model_service_pb2 as pb
from cellwire.v1 import model_service_pb2_grpc
from service.cells import Cells
from service.codec import duration
from service.tensors import tensor_spec
from service.values import ModelSpec


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """List and get."""

    def __init__(self, cells: Cells, idle_ttl: float) -> None:
        self._cells = cells
        self._idle_ttl = idle_ttl

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """The newest version of each."""
        cells = [await self._cells.get(name) for name in self._cells.names()]
        return pb.ListModelsResponse(models=[self._model(cell.spec) for cell in cells])

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        """One version of one."""
        cell = await self._cells.get(request.name, request.version)
        return pb.GetModelResponse(model=self._model(cell.spec))

    def _model(self, spec: ModelSpec) -> pb.Model:
        return pb.Model(
            name=spec.name,
            version=spec.version,
            versions=self._cells.versions(spec.name),
            digest=spec.digest,
            inputs=[tensor_spec(tensor) for tensor in spec.inputs],
            constants=[tensor_spec(tensor) for tensor in spec.constants],
            outputs=[tensor_spec(tensor) for tensor in spec.outputs],
            gates=[tensor_spec(tensor) for tensor in spec.gates],
            state=[
                pb.StateSpec(
                    tensor=tensor_spec(tensor), batch_axis=tensor.batch_axis, carried_input=tensor.carried_input or ""
                )
                for tensor in spec.state
            ],
            max_batch=spec.max_batch,
            time_axis=spec.time_axis is not None,
            idle_ttl=duration(spec.idle_ttl or self._idle_ttl),
            execution_provider=spec.provider,
        )
