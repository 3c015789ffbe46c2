"""The one error a person sees: a sentence, and a hint how to go on."""


class DecipherError(Exception):
    """Something the user can mend. `message` is one sentence; `hint` says what to type or check next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
