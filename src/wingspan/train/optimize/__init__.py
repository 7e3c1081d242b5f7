"""Update rules and schedules."""
