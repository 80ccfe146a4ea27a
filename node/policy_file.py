"""The policy of the home tenant in a file (`policy.mode: file`): read at start and on SIGHUP."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from app import log
from app.errors import ConfigError
from app.model import StoredPolicy, TenantId
from app.policy.hujson import MAX_POLICY_CHARS, PolicyError
from app.policy.reader import read

_log = log.get("policies")

#: A character of UTF-8 has up to so many bytes.
_MAX_BYTES = 4 * MAX_POLICY_CHARS


@dataclass(slots=True)
class PolicyFile:
    """A file, and the text that was last taken from it."""

    path: Path
    text: str = ""

    def take(self) -> None:
        """Read the file for the first time. Raises ConfigError with path, line and column."""
        self.text = self.read()

    def try_again(self) -> None:
        """Take the file as it is now; one that is no policy is refused, and what was taken before stays."""
        try:
            self.text = self.read()
        except ConfigError as error:
            _log.error("policy_file_refused", reason=error.message)

    def read(self) -> str:
        """The text as it stands in the file now, if it is a policy. Raises ConfigError."""
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(
                f"policy.path: cannot read {self.path}: {error.strerror or error}", code="policy_file"
            ) from error
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"policy.path: {self.path} is not UTF-8", code="policy_file") from error
        try:
            read(text)
        except PolicyError as error:
            raise self.refusal(error) from error
        return text

    def refusal(self, error: PolicyError) -> ConfigError:
        """Why the text of this file is no policy to use."""
        return ConfigError(
            f"policy.path: {self.path}: {error.message}",
            code="policy_file",
            line=error.line,
            column=error.column,
        )

    def stored(self, tenant_id: TenantId) -> StoredPolicy:
        """The text last taken, as the policy of a tenant. Version 0: it has none."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return StoredPolicy(tenant_id, 0, self.text, digest, "", str(self.path), 0.0)
