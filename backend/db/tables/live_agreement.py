"""Tables of the answers that blocks sampled, and of their agreement with the gradient by version."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import HASH, Base


class LiveAgreementRow(Base):
    """Figures of a version; see `backend.domain.live_agreement.LiveAgreement`."""

    __tablename__ = "live_agreements"

    version_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    num_sampled: Mapped[int] = mapped_column(BigInteger, default=0)
    num_measured: Mapped[int] = mapped_column(BigInteger, default=0)
    num_unranked: Mapped[int] = mapped_column(BigInteger, default=0)
    sum_ppm: Mapped[int] = mapped_column(BigInteger, default=0)


class LiveSampleRow(Base):
    """A sampled answer that is not measured yet, for each version that has a part of it. The version's
    figures count it already.
    """

    __tablename__ = "live_samples"
    __table_args__ = (Index("ix_live_samples_served_at", "served_at"),)

    response_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    version_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    served_at: Mapped[int] = mapped_column(BigInteger)


class LiveSamplingRow(Base):
    """The only row says until when answers were served that blocks have sampled or passed over."""

    __tablename__ = "live_sampling"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    served_until: Mapped[int] = mapped_column(BigInteger)
