"""What a model remembers beyond a segment: the section `memory`."""

from dataclasses import dataclass
from typing import Literal

from rtdlm.config.effect import require, require_finite

Recurrence = Literal["none", "gated_delta", "channel_decay", "erase_write"]
Fusion = Literal["gated", "cross", "hierarchical", "mixed"]
WritePolicy = Literal["all", "novel"]
ForgetPolicy = Literal["age", "use", "surprise", "adaptive"]
Scope = Literal["document", "stream"]
Form = Literal["own_heads", "attention"]
TaskForm = Literal["matrix", "attention"]


@dataclass(frozen=True)
class MemoryConfig:
    """Memory in three tiers, carried from segment to segment of a row; see docs/memory.md."""

    segment: int | None = None
    """Rows are read in segments of so many tokens, and attention, a layer's convolutions and
    n-grams stay inside a segment: beyond it there is only memory (see `stm_form`); None reads whole
    rows and has no memory [tokens]."""
    every: int | None = None
    """Give every so-manyth layer memory; None is every layer [layers]."""
    heads: int | None = None
    """Heads of memory, as wide as those of attention; None is `num_heads` [heads]."""
    short_conv: int | None = None
    """Width of the short convolutions on memory's queries, keys and values, which go on from
    segment to segment; None is 4, 0 is none [tokens]."""
    stm_window: int = 0
    """Short-term memory: keys and values of the last tokens before the segment (arXiv 1901.02860);
    0 is none [tokens]."""
    stm_form: Form | None = None
    """Who reads short-term memory: heads of its own in layers that have memory (`own_heads`), or
    attention itself, in every layer but a controller's core and in one softmax with the segment
    (`attention`), where then convolutions and n-grams go on from segment to segment, too; None is
    `own_heads`."""
    tier_form: Form | None = None
    """Whose queries, keys and values the tiers of a layer go by, less a window that attention
    reads: memory's own, behind attention (`own_heads`), or attention's, before they are rotated,
    where each head adds what tiers give to what it reads (`attention`; arXiv 2404.07143); None is
    `own_heads`."""
    recurrent: Recurrence = "none"
    """Long-term memory in a matrix a head: `gated_delta` decays it by one number a head (arXiv
    2412.06464), `channel_decay` by one a key feature (arXiv 2510.26692), `erase_write` has separate
    gates for what is erased and what is written, too (arXiv 2605.22791)."""
    episodic_slots: int = 0
    """Long-term memory in a store of single keys and values (arXiv 2203.08913), with room for so
    many tokens a layer; 0 is none [tokens]."""
    episodic_top_k: int | None = None
    """Stored tokens that a query reads; None is 32 [tokens]."""
    episodic_recency: bool = False
    """What is older counts less when the store is read, by a learned slope a head; and where tiers
    go by rotary attention's heads (`tier_form`), each key is read at its distance."""
    episodic_write: WritePolicy | None = None
    """What is stored of a segment: `all` of it, or the tokens whose keys are most unlike any that
    is stored (`novel`); None is `all`."""
    episodic_rows: int | None = None
    """Tokens of a segment that `novel` stores; None is a quarter of it [tokens]."""
    forget: ForgetPolicy | None = None
    """What gives way in a full store: the oldest (`age`), what was read least (`use`), what was
    least new when written (`surprise`), or all three weighed (`adaptive`); None is `age`."""
    consolidate: int | None = None
    """Stored tokens, the most read, that are written into the recurrent matrix once more at the end
    of every segment; None is none [tokens]."""
    summary_slots: int = 0
    """Long-term memory in summaries: one key and value of every chunk of a segment, of which so
    many are kept (arXiv 1911.05507); 0 is none [chunks]."""
    summary_chunk: int | None = None
    """Tokens that a summary is of; None is 16, or the segment if it is shorter [tokens]."""
    task_tokens: int = 0
    """Meta-task memory: summaries that each segment leaves behind for all later ones, in a matrix
    that is written once a segment (arXiv 2407.04841) or as `task_form` says; 0 is none
    [tokens]."""
    task_slots: int | None = None
    """Entries of a bank of tasks; the summaries choose among them, and what is chosen scales and
    shifts the input of the feed-forward layer (arXiv 1709.07871); None is none [entries]."""
    task_form: TaskForm | None = None
    """Where the summaries are: in a matrix that each head reads (`matrix`), or as tokens before the
    segment that attention reads in one softmax with it, in every layer but a controller's core, and
    that the next ones are made of, too (`attention`; arXiv 2207.06881); None is `matrix`."""
    fusion: Fusion | None = None
    """How tiers become one: a sum with a gate a head and tier (`gated`), attention over the tiers
    (`cross`), gates one after another, each for what is left, all of it for the last tier
    (`hierarchical`), or `gated` where attention's own reading gives way to what was found (`mixed`,
    with `tier_form=attention`); None is `gated`."""
    stm_weight: float | None = None
    """Share with which short-term memory is let through before training, in (0, 1); None is 0.5."""
    ltm_weight: float | None = None
    """The same of long-term memory."""
    mtm_weight: float | None = None
    """The same of meta-task memory."""
    ltm_scope: Scope | None = None
    """How far long-term memory reaches: to the start of the `document`, or of the whole row and
    what came before it (`stream`); None is `document`."""
    mtm_scope: Scope | None = None
    """The same of meta-task memory."""
    backprop_segments: int | None = None
    """Segments after which gradients through memory are cut; None is never [segments]."""
    across_steps: bool = False
    """Training reads text in its order, each row of a step going on where that row of the step
    before ended, and carries memory along; else every row begins with an empty one."""

    def __post_init__(self) -> None:
        require_finite(self, path="memory.")
        self._require_segments()
        self._require_tiers()

    @property
    def has_tiers(self) -> bool:
        """Any layer has memory; else segments stand alone."""
        return bool(self.stm_window or self.has_long_term or self.task_tokens)

    @property
    def tiers(self) -> tuple[str, ...]:
        """What is remembered, from what is nearest to what is most general."""
        given = {
            "stm": self.stm_window > 0,
            "episodic": self.episodic_slots > 0,
            "recurrent": self.recurrent != "none",
            "summaries": self.summary_slots > 0,
            "mtm": self.task_tokens > 0,
        }
        return tuple(name for name, has in given.items() if has)

    @property
    def is_attended(self) -> bool:
        """Attention reads short-term memory itself."""
        return self.stm_window > 0 and self.stm_form == "attention"

    @property
    def attends_tasks(self) -> bool:
        """Attention reads meta-task memory itself."""
        return self.task_tokens > 0 and self.task_form == "attention"

    @property
    def attended_slots(self) -> int:
        """Keys and values of memory that attention itself reads."""
        window = self.stm_window if self.is_attended else 0
        return window + (self.task_tokens if self.attends_tasks else 0)

    @property
    def layer_tiers(self) -> tuple[str, ...]:
        """Those of `tiers` that a layer with memory reads, beside what attention does."""
        apart = {"stm": self.is_attended, "mtm": self.attends_tasks}
        return tuple(tier for tier in self.tiers if not apart.get(tier))

    @property
    def _attended_forms(self) -> tuple[str, ...]:
        forms = {
            "memory.stm_form='attention'": self.is_attended,
            "memory.task_form='attention'": self.attends_tasks,
        }
        return tuple(form for form, has in forms.items() if has)

    @property
    def by_attention(self) -> bool:
        """Tiers of a layer go by attention's queries, keys and values."""
        return bool(self.layer_tiers) and self.tier_form == "attention"

    def prior(self, tier: str) -> float:
        """Share with which a tier of `layer_tiers` is let through before training."""
        weights = {"stm": self.stm_weight, "mtm": self.mtm_weight}
        weight = weights.get(tier, self.ltm_weight)
        return 0.5 if weight is None else weight

    @property
    def has_long_term(self) -> bool:
        """Any form."""
        return self.recurrent != "none" or self.episodic_slots > 0 or self.summary_slots > 0

    @property
    def stride(self) -> int:
        """Layers from one with memory to the next."""
        return 1 if self.every is None else self.every

    @property
    def conv_width(self) -> int:
        """Tokens under a short convolution of memory's own; 0 is none."""
        if self.by_attention:
            return 0
        return 4 if self.short_conv is None else self.short_conv

    @property
    def chunk(self) -> int:
        """Tokens that a summary is of."""
        segment = 16 if self.segment is None else self.segment
        return min(segment, 16) if self.summary_chunk is None else self.summary_chunk

    @property
    def top_k(self) -> int:
        """Stored tokens that a query reads."""
        return min(self.episodic_slots, 32 if self.episodic_top_k is None else self.episodic_top_k)

    @property
    def needs_novelty(self) -> bool:
        """What is stored or forgotten depends on how unlike the store a token is."""
        return self.stored_rows is not None or self.forget in ("surprise", "adaptive")

    @property
    def stored_rows(self) -> int | None:
        """Tokens of a segment that are stored; None is all."""
        if self.segment is None or self.episodic_write in (None, "all"):
            return None
        return max(1, self.segment // 4) if self.episodic_rows is None else self.episodic_rows

    def _require_segments(self) -> None:
        require(
            self.segment is None or self.segment >= 1,
            f"memory.segment={self.segment} must be at least 1",
        )
        for name in ("backprop_segments", "every", "heads"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"memory.{name}={value} must be at least 1")
        require(
            self.segment is not None or not self.has_tiers,
            "memory has a tier and no segment to carry it across; set memory.segment, for instance "
            "to 64",
        )
        for name in ("every", "heads", "short_conv", "fusion", "tier_form", "backprop_segments"):
            value = getattr(self, name)
            require(
                value is None or self.has_tiers,
                f"memory.{name}={value!r} has no effect without a tier; set memory.stm_window, "
                "memory.recurrent, memory.episodic_slots, memory.summary_slots or "
                "memory.task_tokens, or remove it",
            )
        for name in ("every", "heads", "short_conv", "fusion", "tier_form"):
            told = " and ".join((*self._attended_forms, "no other tier"))
            self._require_reader(name, bool(self.layer_tiers) or not self.has_tiers, told)
        for name in ("heads", "short_conv"):
            self._require_reader(name, not self.by_attention, "memory.tier_form='attention'")
        require(
            not self.across_steps or self.has_tiers,
            "memory.across_steps=True carries nothing without a tier; set memory.stm_window, "
            "memory.recurrent, memory.episodic_slots, memory.summary_slots or memory.task_tokens, "
            "or remove it",
        )
        width = self.short_conv
        require(
            width in (None, 0) or (width is not None and width >= 2),
            f"memory.short_conv={width} must be 0 (none) or at least 2",
        )

    def _require_tiers(self) -> None:
        for name in ("stm_window", "episodic_slots", "summary_slots", "task_tokens"):
            value = getattr(self, name)
            require(value >= 0, f"memory.{name}={value} must be at least 0")
        require(
            not self.episodic_recency or self.episodic_slots > 0,
            "memory.episodic_recency=True has no effect with memory.episodic_slots=0; remove it",
        )
        stored = ("episodic_top_k", "episodic_write", "forget", "consolidate")
        for name in stored:
            self._require_reader(name, self.episodic_slots > 0, "memory.episodic_slots=0")
        self._require_reader("summary_chunk", self.summary_slots > 0, "memory.summary_slots=0")
        self._require_reader("task_slots", self.task_tokens > 0, "memory.task_tokens=0")
        self._require_reader("mtm_scope", self.task_tokens > 0, "memory.task_tokens=0")
        self._require_reader("ltm_scope", self.has_long_term, "no long-term memory")
        self._require_reader("stm_form", self.stm_window > 0, "memory.stm_window=0")
        self._require_reader("stm_weight", self.stm_window > 0, "memory.stm_window=0")
        self._require_reader("stm_weight", not self.is_attended, "memory.stm_form='attention'")
        self._require_reader("ltm_weight", self.has_long_term, "no long-term memory")
        self._require_reader("mtm_weight", self.task_tokens > 0, "memory.task_tokens=0")
        self._require_reader("task_form", self.task_tokens > 0, "memory.task_tokens=0")
        for name in ("mtm_weight", "task_slots"):
            self._require_reader(name, not self.attends_tasks, "memory.task_form='attention'")
        for name in ("stm_weight", "ltm_weight", "mtm_weight"):
            value = getattr(self, name)
            require(value is None or 0 < value < 1, f"memory.{name}={value} is outside (0, 1)")
        require(
            self.fusion != "cross" or len(self.layer_tiers) > 1,
            f"memory.fusion='cross' weighs tiers against each other and there is only "
            f"{' '.join(self.layer_tiers)}; use 'gated' or another tier",
        )
        require(
            self.fusion != "mixed" or self.by_attention,
            "memory.fusion='mixed' makes attention's own reading give way, and tiers have heads of "
            "their own; set memory.tier_form='attention', or use 'gated'",
        )
        self._require_reader(
            "episodic_rows",
            self.episodic_write == "novel",
            f"episodic_write={self.episodic_write!r}",
        )
        self._require_reader("consolidate", self.recurrent != "none", "memory.recurrent='none'")
        for name in (
            "episodic_top_k",
            "episodic_rows",
            "consolidate",
            "summary_chunk",
            "task_slots",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, f"memory.{name}={value} must be at least 1")
        for name in ("episodic_top_k", "consolidate"):
            value = getattr(self, name)
            require(
                value is None or value <= self.episodic_slots,
                f"memory.{name}={value} exceeds memory.episodic_slots={self.episodic_slots}",
            )
        rows = self.segment if self.stored_rows is None else self.stored_rows
        require(
            not self.episodic_slots or rows is None or rows <= self.episodic_slots,
            f"memory.episodic_slots={self.episodic_slots} cannot hold the {rows} tokens that a "
            "segment stores; choose more slots or a smaller segment",
        )
        require(
            self.segment is None or rows is None or rows <= self.segment,
            f"memory.episodic_rows={rows} exceeds memory.segment={self.segment}",
        )
        require(
            self.segment is None or self.summary_chunk is None or self.segment % self.chunk == 0,
            f"memory.summary_chunk={self.summary_chunk} does not divide memory.segment="
            f"{self.segment}; use one of its divisors",
        )

    def _require_reader(self, name: str, is_read: bool, why: str) -> None:
        value = getattr(self, name)
        require(
            value is None or is_read, f"memory.{name}={value!r} has no effect with {why}; remove it"
        )
