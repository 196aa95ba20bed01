"""The length of drafts that is chosen from measured costs, on a clock of the tests' own."""

from descant.strategies.draft_length import AdaptiveLength, DraftLength, Round


class Simulation:
    """Rounds whose costs and acceptance are known: expert pass 1, each draft pass and each verified token a cost."""

    def __init__(self, draft_cost: float, token_cost: float, acceptance: float) -> None:
        self.now = 0.0
        self.draft_cost, self.token_cost, self.acceptance = draft_cost, token_cost, acceptance
        self.length = AdaptiveLength(lambda: self.now)
        self.debt = 0.0
        self.lengths: list[int] = []

    def run(self, rounds: int) -> float:
        """Return the tokens a second."""
        start, tokens = self.now, 0
        for _ in range(rounds):
            count = self.length.start_round()
            self.now += count * self.draft_cost
            self.now += 1 + count * self.token_cost
            accepted = self._accept(count)
            self.length.end_round(Round([count], [accepted], steady=True))
            self.lengths.append(count)
            tokens += accepted + 1
        return tokens / (self.now - start)

    def _accept(self, count: int) -> int:
        """Accept every draft but one in `1 / (1 − acceptance)`, without randomness."""
        for number in range(count):
            self.debt += 1 - self.acceptance
            if self.debt >= 1:
                self.debt -= 1
                return number
        return count


def best(draft_cost: float, token_cost: float, acceptance: float) -> float:
    rates = [
        sum(acceptance**place for place in range(count + 1)) / (1 + count * (draft_cost + token_cost))
        for count in range(9)
    ]
    return max(rates)


def test_good_drafts_are_made_long() -> None:
    simulation = Simulation(draft_cost=0.1, token_cost=0.01, acceptance=0.9)
    rate = simulation.run(200)
    assert rate > 0.85 * best(0.1, 0.01, 0.9)
    assert max(simulation.lengths) >= 5


def test_useless_drafts_are_given_up_at_a_cost_below_five_percent() -> None:
    for draft_cost in (0.1, 0.5, 1.0):
        simulation = Simulation(draft_cost, token_cost=0.1, acceptance=0.0)
        assert simulation.run(128) > 1 / 1.05
        assert simulation.lengths.count(0) > 100


def test_dear_drafts_are_not_made() -> None:
    simulation = Simulation(draft_cost=0.9, token_cost=0.3, acceptance=0.6)
    assert simulation.run(128) > 1 / 1.05


def test_it_comes_back_when_drafts_become_good() -> None:
    simulation = Simulation(draft_cost=0.1, token_cost=0.01, acceptance=0.0)
    simulation.run(100)
    assert simulation.lengths[-1] == 0
    simulation.acceptance = 0.95
    simulation.run(300)
    assert simulation.run(50) > 2


def test_first_rounds_read_prompts_and_are_no_measure() -> None:
    clock = iter(range(100))
    length = AdaptiveLength(lambda: float(next(clock)))
    for _ in range(3):
        assert length.start_round() == 0
        length.end_round(Round([0], [0], steady=False))
    assert length.start_round() == 0


def test_a_round_that_compiles_is_no_measure() -> None:
    simulation = Simulation(draft_cost=0.1, token_cost=0.01, acceptance=0.9)
    simulation.run(5)
    simulation.token_cost = 1e4
    simulation.run(1)
    assert simulation.lengths[-1] > 0, "the round that is disturbed drafts"
    simulation.token_cost = 0.01
    assert simulation.run(50) > 0.8 * best(0.1, 0.01, 0.9)


def test_a_number_stays() -> None:
    length = DraftLength.of(3)
    for _ in range(3):
        assert length.start_round() == 3
        length.end_round(Round([3], [0], steady=True))


def test_several_rows_do_not_draft_for_little() -> None:
    """A batch ends with its slowest row: what the mean row gains by a few rounds, the call loses."""
    clock, count, drafted = 0.0, 0, 0
    length = AdaptiveLength(lambda: clock)
    for _ in range(128):
        count = length.start_round()
        clock += 1 + 0.5 * count
        length.end_round(Round([count] * 8, [min(count, 1)] * 8, steady=True))
        drafted += count > 0
    assert drafted <= 2
