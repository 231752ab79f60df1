"""What a request is refused with."""


class Refused(Exception):
    """A request that cannot be answered: a status code and a sentence for people, which names nothing of the server's disk."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status, self.text = status, text
