"""What the fields and inputs of a modality are called, which follows from its name; see `Modality`."""


class Named:
    """Has the attributes of `Modality` that are names, and says what else follows from them."""

    name = short = noun = nouns = file_noun = subject = mask = column = argument = ""
    aliases: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    later_inputs: tuple[str, ...] = ()
    has_grid = False

    @property
    def names(self) -> tuple[str, ...]:
        """All that callers call it."""
        return tuple(dict.fromkeys((self.column, self.name, self.argument, self.short, *self.aliases)))

    @property
    def file_nouns(self) -> str:
        """What several of its files are called."""
        return self.nouns if self.file_noun == self.noun else f"{self.file_noun}s"

    @property
    def subjects(self) -> str:
        return self.nouns if self.subject == self.noun else f"{self.subject}s"

    @property
    def config_field(self) -> str:
        return f"{self.name}_config"

    @property
    def pooling_field(self) -> str:
        return f"{self.name}_pooling"

    @property
    def main_input(self) -> str:
        return self.inputs[0]

    @property
    def present(self) -> str:
        """The input that says which examples have it."""
        return f"{self.short}_present"

    @property
    def index(self) -> str:
        """The input that says which of the rows each example has."""
        return f"{self.short}_index"

    @property
    def states(self) -> str:
        """The input that holds the tokens which its encoder once made, [rows, N, width]."""
        return f"{self.name}_states"

    @property
    def pooled(self) -> str:
        """The input that holds the summaries which its encoder once made, [rows, width]."""
        return f"{self.name}_pooled"

    @property
    def grid(self) -> str:
        """The input that says which grid the last of the stored tokens form, [2]."""
        return f"{self.name}_grid"

    @property
    def stored(self) -> tuple[str, ...]:
        """The inputs that stand for what the encoder would say."""
        return (self.states, self.pooled, *([self.grid] if self.has_grid else []))

    @property
    def all_inputs(self) -> tuple[str, ...]:
        """Everything that `forward` takes of it."""
        return tuple(
            dict.fromkeys((*self.inputs, self.index, self.present, *self.stored, *self.later_inputs, self.mask))
        )
