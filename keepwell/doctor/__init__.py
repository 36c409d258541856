"""Whether each part of a platform would hold if it were needed now, tried against the parts themselves."""

from keepwell.doctor.examination import GROUPS, Group, examine

__all__ = ["GROUPS", "Group", "examine"]
