"""Tokens for SASL OAUTHBEARER, by the client credentials grant (RFC 6749, section 4.4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx2
from kafka.net.sasl.oauth import AbstractTokenProvider
from pydantic import BaseModel, ConfigDict, Field, ValidationError

TIMEOUT_S = 10.0
#: How much of a token's life is used: the rest is for the way to the broker and for clocks that differ.
USED = 0.8


class NoToken(Exception):
    """The token server gave none; the text is a sentence that names the setting."""


class _Answer(BaseModel):
    # What is wrong with an answer must not show the token that may be in it.
    model_config = ConfigDict(hide_input_in_errors=True)

    access_token: str = Field(min_length=1)
    expires_in: float = 0.0


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]
    """Gives a token that is still good for a while, and asks for a new one only then. Any thread may ask."""

    def __init__(
        self,
        *,
        url: str,
        client_id: str,
        client_secret: str,
        scope: str | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._url, self._secret = url, (client_id, client_secret)
        self._form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        self._now = now
        self._lock = threading.Lock()
        self._token, self._good_until = "", 0.0

    def token(self) -> str:
        """Waits for the token server where there is none at hand. Raises NoToken."""
        with self._lock:
            if not self._token or self._now() >= self._good_until:
                asked = self._now()
                answer = self._ask()
                self._token, self._good_until = answer.access_token, asked + USED * answer.expires_in
            return self._token

    def _ask(self) -> _Answer:
        try:
            # Id and secret by HTTP Basic, which every token server has to know (RFC 6749, section 2.3.1).
            response = httpx2.post(self._url, data=self._form, auth=self._secret, timeout=TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise NoToken(f"MEDIAMILL_KAFKA_OAUTH_TOKEN_URL: {self._url} does not answer: {error}") from error
        if response.status_code in (400, 401, 403):
            raise NoToken(
                f"MEDIAMILL_KAFKA_OAUTH_CLIENT_ID, _CLIENT_SECRET or _SCOPE: {self._url} does not accept them: "
                f"{response.status_code} {response.text[:200]}"
            )
        refused = f"MEDIAMILL_KAFKA_OAUTH_TOKEN_URL: {self._url} gives no token"
        try:
            response.raise_for_status()
            return _Answer.model_validate_json(response.content)
        except httpx2.HTTPStatusError as error:
            raise NoToken(f"{refused}: {response.status_code} {response.text[:200]}") from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise NoToken(f"{refused}: {problems.removeprefix(': ')}") from None
