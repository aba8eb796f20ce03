"""The detector: branches, a fuser, a neck and heads on one bird's-eye-view frame."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.flips import Flip, check_flips, flip_matrix
from perception.models.layers import zero_of
from perception.models.parts import AuxiliaryLoss, Branch, Fuser, Head, Neck, Temporal
from perception.structures import Batch, Predictions, SensorFeatures
from perception.structures.state import DetectorState

_TEMPORAL = "temporal"


@dataclass(frozen=True, kw_only=True)
class DetectorOutput:
    """What a detector computed for one batch.

    Args:
        heads: head name -> that head's own typed output.
        aux: "<branch>/<name>" or "fused/<name>" -> auxiliary output.
        state: what the next call with the same drives takes; None where no part remembers anything.
    """

    heads: Mapping[str, Any]
    aux: Mapping[str, Tensor]
    state: DetectorState | None = None


class Detector(nn.Module):
    """Finds objects with whatever sensors a sample has.

    The detector owns the grids and the class names and hands them on to its parts.

    Args:
        grids: level name -> grid in the (augmented) ego frame.
        class_names: classes that the labels of samples and predictions index.
        branches: sensor name -> branch.
        fuser: puts the branches' maps together.
        neck: works on the fused maps.
        heads: head name -> head.
        auxiliary_losses: loss name -> loss on the parts' auxiliary outputs, beside those that the fuser has.
        temporal: adds what earlier moments showed to the fused maps; None looks at each moment alone.
        test_flips: mirrored frames, some of "x", "y" and "xy", that are looked at too in evaluation mode; the heads
            average what they see. Each costs as much as the detector.

    Raises:
        ValueError: parts that do not fit each other, or grids that cannot be mirrored.
    """

    def __init__(
        self,
        *,
        grids: dict[str, Grid],
        class_names: list[str],
        branches: dict[str, Branch],
        fuser: Fuser,
        neck: Neck,
        heads: dict[str, Head],
        auxiliary_losses: dict[str, AuxiliaryLoss] | None = None,
        temporal: Temporal | None = None,
        test_flips: Sequence[Flip] = (),
    ) -> None:
        super().__init__()
        self.grids = dict(grids)
        self.class_names = tuple(class_names)
        self.branches = nn.ModuleDict(branches)
        self.fuser = fuser
        self.temporal = temporal
        self.neck = neck
        self.heads = nn.ModuleDict(heads)
        self.auxiliary_losses = nn.ModuleDict({**fuser.auxiliary_losses(), **(auxiliary_losses or {})})
        self.test_flips = tuple(test_flips)
        check_flips(self.test_flips, self.grids)
        _check_parts(self.grids, branches, fuser, neck, heads)
        if temporal is not None:
            _check_link(_name(fuser), fuser.out_channels, temporal, temporal.in_channels)
        _check_classes(self.class_names, heads)

    def plan(self, batch: Batch) -> dict[str, Any]:
        """Computes what depends on calibration alone, for use with every batch that has the same.

        Args:
            batch: B samples; calibration, present cameras and `ego2aug` count, pictures and points do not.

        Returns:
            Branch name -> its plan.
        """
        return {name: branch.plan(batch, self.grids) for name, branch in self.branches.items()}  # type: ignore[operator]

    def forward(
        self, batch: Batch, plans: Mapping[str, Any] | None = None, state: DetectorState | None = None
    ) -> DetectorOutput:
        """Runs every branch on the samples that have its sensor, then fuser, history, neck and heads.

        Args:
            batch: B samples; each has at least one sensor that the detector reads.
            plans: what `plan` gave for this calibration; None works everything out.
            state: what the last call gave for the same drives in this order, each of which may have begun anew; None
                remembers nothing.

        Returns:
            Typed outputs of the heads and the auxiliary outputs of all parts; with `test_flips`, of the heads the mean
            over the frames, and auxiliary outputs and state of the frame as it is.

        Raises:
            ValueError: a sample has no sensor that the detector reads, or the state is of other drives or parts.
        """
        straight = self._look(batch, plans, state)
        if self.training or not self.test_flips:
            return straight
        outputs: dict[Flip, DetectorOutput] = {"": straight}
        for flip in self.test_flips:
            move = flip_matrix(flip).to(batch.device)
            outputs[flip] = self._look(dataclasses.replace(batch, ego2aug=move @ batch.ego2aug), None, state)
        merged = {
            name: head.merge_flips({flip: output.heads[name] for flip, output in outputs.items()})  # type: ignore[operator]
            for name, head in self.heads.items()
        }
        return DetectorOutput(heads=merged, aux=straight.aux, state=straight.state)

    def _look(self, batch: Batch, plans: Mapping[str, Any] | None, state: DetectorState | None) -> DetectorOutput:
        plans = plans or {}
        features = {name: branch(batch, self.grids, plans.get(name)) for name, branch in self.branches.items()}
        _check_present(features, batch)
        fused, parts = self.fuser(features), {}
        if self.temporal is not None:
            remembered = state.parts.get(_TEMPORAL) if state is not None else None
            fused, parts[_TEMPORAL] = self.temporal(fused, batch, remembered)
        fused = self.neck(fused)
        aux = {f"{name}/{key}": value for name, part in features.items() for key, value in part.aux.items()}
        aux |= {f"fused/{key}": value for key, value in fused.aux.items()}
        return DetectorOutput(
            heads={name: head(fused) for name, head in self.heads.items()},
            aux=aux,
            state=DetectorState(parts=parts) if parts else None,
        )

    @property
    def sensors(self) -> tuple[str, ...]:
        """The kinds of sensors that the branches read, whatever these are called."""
        return tuple(cast(Branch, branch).sensor or name for name, branch in self.branches.items())

    def losses(self, output: DetectorOutput, batch: Batch) -> dict[str, Tensor]:
        """Compares an output with the annotations of its batch.

        Every trainable parameter takes part, with a zero gradient where it was not used, so that processes with
        different sensors train together.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples; those without annotations do not count.

        Returns:
            Scalar per loss, already weighted: "<head>/<loss>" and the names of the auxiliary losses.
        """
        losses: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            terms = head.losses(output.heads[name], batch, self.class_names)  # type: ignore[operator]
            losses |= {f"{name}/{key}": value for key, value in terms.items()}
        losses |= {name: loss(output.aux, batch) for name, loss in self.auxiliary_losses.items()}
        first = next(iter(losses))
        losses[first] = losses[first] + zero_of(self.parameters())
        return losses

    @torch.no_grad()
    def predict(self, output: DetectorOutput, batch: Batch) -> tuple[Predictions, ...]:
        """Decodes an output.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples.

        Returns:
            One `Predictions` per sample, in the true ego frame (augmentation undone).
        """
        columns: dict[str, tuple[Any, ...]] = {
            field.name: (None,) * len(batch) for field in dataclasses.fields(Predictions)
        }
        columns["token"] = batch.tokens
        for name, head in self.heads.items():
            values = head.predict(output.heads[name], batch, self.class_names)  # type: ignore[operator]
            columns[str(head.predicts)] = values
        return tuple(Predictions(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))


def _check_present(features: Mapping[str, SensorFeatures], batch: Batch) -> None:
    present = torch.stack([part.present for part in features.values()]).any(0).tolist()  # (branches, B) -> B
    blind = [token for token, seen in zip(batch.tokens, present, strict=True) if not seen]
    if blind:
        raise ValueError(
            f"Detector: every sample must have one of the sensors {', '.join(features)}, "
            f"got none for {', '.join(blind)}"
        )


def _check_parts(
    grids: Mapping[str, Grid],
    branches: Mapping[str, Branch],
    fuser: Fuser,
    neck: Neck,
    heads: Mapping[str, Head],
) -> None:
    if not branches or not heads:
        raise ValueError(f"Detector: branches and heads must not be empty, got {len(branches)} and {len(heads)}")
    for level, sensors in fuser.in_channels.items():
        if level not in grids:
            raise ValueError(f"Detector: grids must name every level, got none for {level!r} of {_name(fuser)}")
        for sensor, channels in sensors.items():
            if sensor not in branches:
                raise ValueError(
                    f"Detector: {_name(fuser)} reads {sensor!r}, but the branches are {', '.join(branches)}"
                )
            branch = branches[sensor]
            _check_link(f"branch {sensor!r} ({_name(branch)})", branch.out_channels, fuser, {level: channels})
    for sensor, branch in branches.items():
        unread = [level for level in branch.out_channels if sensor not in fuser.in_channels.get(level, {})]
        if unread:
            raise ValueError(f"Detector: {_name(fuser)} must read level {unread[0]!r} of branch {sensor!r}")
    _check_link(_name(fuser), fuser.out_channels, neck, neck.in_channels)
    for head in heads.values():
        _check_link(_name(neck), neck.out_channels, head, head.in_channels)


def _check_link(source: str, given: Mapping[str, int], reader: nn.Module, wanted: Mapping[str, int]) -> None:
    for level, channels in wanted.items():
        if given.get(level) != channels:
            offer = f"{given[level]} channels" if level in given else "no such level"
            raise ValueError(
                f"Detector: {_name(reader)} requires {channels} channels on level {level!r}, but {source} gives {offer}"
            )


def _check_classes(class_names: tuple[str, ...], heads: Mapping[str, Head]) -> None:
    duplicates = _duplicates(class_names)
    if not class_names or duplicates:
        raise ValueError(f"Detector: class_names must be distinct and not empty, got {list(class_names)}")
    for name, head in heads.items():
        unknown = [known for known in head.class_names if known not in class_names]
        if unknown:
            raise ValueError(f"Detector: head {name!r} names {unknown}, but the classes are {list(class_names)}")
    fields = _duplicates(head.predicts for head in heads.values())
    if fields:
        raise ValueError(f"Detector: heads must predict different things, got {fields} more than once")


def _duplicates(names: Iterable[str]) -> list[str]:
    names = list(names)
    return sorted({name for name in names if names.count(name) > 1})


def _name(part: nn.Module) -> str:
    return type(part).__name__
