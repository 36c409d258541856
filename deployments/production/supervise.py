"""The program that supervises what `keepwell serve` runs."""

import sys

from deployments.production.limits import stand_back
from deployments.production.stack import plan_stack
from deployments.running.supervisor import main

if __name__ == "__main__":
    stand_back()
    sys.exit(main(plan_stack()))
