"""The engines that come with the project; each module imports its runtime, and nothing else imports them."""
