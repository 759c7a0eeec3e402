"""Wires what datanets are made of: uploads and contributions, their review, and snapshots."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.db.unit_of_work import Database
    from backend.installation.resources import Resources
    from backend.ports.chain import Chain
    from backend.ports.storage import BlobStore
    from backend.services.contribute.check_upload import UploadCheck
    from backend.services.contribute.contributions import Contributions
    from backend.services.contribute.curate import Curation
    from backend.services.contribute.published_answers import PublishedAnswers
    from backend.services.contribute.snapshot import Snapshots
    from backend.services.contribute.staging import Staging
    from backend.services.contribute.terms import DatanetTerms
    from backend.services.contribute.withdrawn_content import WithdrawnContent
    from backend.services.market.datanet_folders import DatanetFolders
    from backend.services.transactions.consent import Consent
    from backend.services.transactions.relays import Relays

MAX_QUEUED_TERMS = 16
"""Datanets whose terms wait to be fetched, beyond the two that are."""


class Datanets:
    def __init__(
        self, resources: Resources, consent: Callable[[], Consent], relays: Callable[[], Relays]
    ) -> None:
        self._resources, self._consent, self._relays = resources, consent, relays
        self._db, self._blobs = resources.database, resources.blobs

    @cached_property
    def _staging(self) -> Staging:
        from backend.services.contribute.staging import Staging

        settings = self._resources.settings
        return Staging(settings.home / "uploads", settings.max_upload_bytes, settings.reserved_disk_bytes)

    @property
    def _upload_check(self) -> UploadCheck:
        from backend.services.contribute.check_upload import UploadCheck

        refused_kinds = self._resources.settings.refused_kinds
        return UploadCheck(self._db, self._staging, self._count_tokens, refused_kinds)

    def _count_tokens(self, texts: Sequence[str]) -> int | None:
        """Number of tokens by the first base model's tokenizer."""
        from backend.services.contribute.base_tokenizer import count_tokens

        return count_tokens(Path(self._resources.base_model.folder), texts)

    @property
    def _terms(self) -> DatanetTerms:
        from backend.services.background import Background
        from backend.services.contribute.terms import DatanetTerms

        fetch = self._resources.peers_for(self._db).fetch_copy
        return DatanetTerms(self._blobs, fetch, Background(max_threads=2, max_queued=MAX_QUEUED_TERMS))

    @cached_property
    def contributions(self) -> Contributions:
        from backend.services.contribute.contributions import Contributions

        parts = self._consent(), self._upload_check, self._relays(), self._terms
        return Contributions(self._db, self._blobs, self._resources.chain, *parts)

    @cached_property
    def curation(self) -> Curation:
        from backend.services.contribute.curate import Curation

        return Curation(self._db, self._blobs, self._staging, self._resources.operator.account)

    @cached_property
    def folders(self) -> DatanetFolders:
        from backend.services.market.datanet_folders import DatanetFolders

        settings = self._resources.settings
        # Below `uploads`, which the API and the settler of another machine share.
        root = settings.home / "uploads" / "datanets"
        return DatanetFolders(self._db, self._blobs, root, settings.reserved_disk_bytes)

    @cached_property
    def withdrawn_content(self) -> WithdrawnContent:
        from backend.services.contribute.withdrawn_content import WithdrawnContent

        return WithdrawnContent(self._db, self._blobs)

    @cached_property
    def published_answers(self) -> PublishedAnswers:
        from backend.services.contribute.base_tokenizer import decode_tokens
        from backend.services.contribute.published_answers import PublishedAnswers

        infos = self._resources.base_models
        decoders = {digest: partial(decode_tokens, Path(info.folder)) for digest, info in infos.items()}
        return PublishedAnswers(self._db, self._blobs, self.snapshots.stored_rows, decoders)

    @cached_property
    def snapshots(self) -> Snapshots:
        """Snapshots of contributions in the local store."""
        from backend.services.contribute.snapshot import Snapshots

        return Snapshots(*self._snapshot_parts)

    @cached_property
    def fetching_snapshots(self) -> Snapshots:
        """Snapshots that also fetch contributions stored by other operators."""
        from backend.services.contribute.snapshot import Snapshots

        return Snapshots(*self._snapshot_parts, self._resources.peers_for(self._db).fetch)

    @property
    def _snapshot_parts(self) -> tuple[Database, BlobStore, Chain, Relays, Path]:
        resources = self._resources
        return self._db, self._blobs, resources.chain, self._relays(), resources.scratch
