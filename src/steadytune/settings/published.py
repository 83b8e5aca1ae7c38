"""Published figures, as a configuration gives them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class Column(BaseModel):
    """A column of a table, and where its numbers are found in a comparison.

    Attributes:
        name: as the paper prints it.
        task: name of the task here; ``None`` for a mean over the columns before it, or for what is not repeated here.
        train_size: of the comparison's sizes; any if there is one only.
        split: the first test split by default, or validation.
        metric: the task's main metric by default.
        figure: instead of a score, what `steadytune evaluate` measured, e.g. ``"movement L1"``.
        languages: the mean over all scored splits of a task in several languages.
        unit: our numbers are multiplied by it to be in the paper's.
        mean: whether it is the mean over the columns before it.
    """

    model_config = _STRICT

    name: str
    task: str | None = None
    train_size: str | None = None
    split: str | None = None
    metric: str | None = None
    figure: str | None = None
    languages: bool = False
    unit: float = 100.0
    mean: bool = False


class Row(BaseModel):
    """A row of a table: a model, a method, and a number or none for each column, in the paper's unit."""

    model_config = _STRICT

    model: str
    method: str
    values: list[float | None]


class Published(BaseModel):
    """A table of a paper.

    Example:
        >>> table = {"title": "Table 2", "source": "Wu et al.", "columns": [{"name": "RTE", "task": "rte"}],
        ...          "rows": [{"model": "BERT", "method": "none", "values": [67.7]}]}
        >>> Published(**table).rows[0].values
        [67.7]

    Attributes:
        title: which table or figure.
        source: the paper, with its address.
        note: how the numbers came about: which split, how many runs, what is not said.
        statistic: what the paper prints of its runs, and so what is computed of ours.
        columns: see `Column`.
        rows: see `Row`.
    """

    model_config = _STRICT

    title: str
    source: str
    note: str = ""
    statistic: Literal["mean", "median"] = "mean"
    columns: list[Column] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_equal_length(self) -> Published:
        for number, row in enumerate(self.rows, start=1):
            if len(row.values) != len(self.columns):
                raise ValueError(f"row {number} has {len(row.values)} values for {len(self.columns)} columns")
        return self
