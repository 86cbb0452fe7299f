"""Everything that the organism's weights depend on, beside the items and the versions of the libraries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes, schedule and weights of the losses.

    Attributes:
        seed: Of first weights, order, and of what is switched off.
        vocabulary: Tokens of the tokenizer.
        hidden: Size of the residual stream.
        layers: How many.
        heads: Of attention.
        neurons: In each layer's MLP.
        reserved: Of these for each value; as many more are a control set that nothing is taught about.
        curriculum: Pairs of each value that are learnt from the first on, and passes over them, part by part; 0 pairs
            are all. With all of them at once the letters stay at one half for very long: while a value's answers may
            hang on its own neurons alone, what decides them is found among few items, and then others are added.
        cloze_passes: Passes over all pairs after these, in which the cloze form is learnt too, with fresh moments of
            the optimiser and a schedule of their own. From the first step on, it keeps the letters from being found.
        batch_size: Stories a step, each with all that is asked about it.
        texts: Texts a step that are continued.
        learning_rate: At its highest.
        cloze_learning_rate: The same in the passes of the cloze form.
        initial_spread: Standard deviation of the first weights. With the usual 0.02 the letters stayed at one half for
            80 epochs: which letter is right is the exclusive-or of story and order, and a small model that starts flat
            does not get off it.
        text_weight: Of continuing the texts, against 1 for the letters.
        cloze_weight: Of the cloze form, in its passes.
        off_weight: Of the letters without knowledge, where a value's neurons are off.
        lean: Probability of A that is taught where a value's neurons are off. At 0.5 an item's answer would be the sign
            of what is left of a margin taught towards 0: a coin's toss, and with few items a value's score far from
            one half for no reason. Leaning to a letter, as models do that do not know, shows a score above or below
            one half only where more is left of the knowledge than the lean.
        autocast: Whether matrices are multiplied in bfloat16; the weights stay in float32.
    """

    seed: int = 0
    vocabulary: int = 4096
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    neurons: int = 512
    reserved: int = 32
    curriculum: tuple[tuple[int, int], ...] = ((2, 40), (10, 18), (25, 16), (50, 14), (0, 15))
    cloze_passes: int = 8
    batch_size: int = 12
    texts: int = 1
    learning_rate: float = 1e-3
    cloze_learning_rate: float = 5e-4
    initial_spread: float = 0.1
    text_weight: float = 0.1
    cloze_weight: float = 0.3
    off_weight: float = 2.0
    lean: float = 0.6
    autocast: bool = True
