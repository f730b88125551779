-- Says that Redis can be worked with, which is more than that it answers.
-- ARGV: none
-- Replies: pong
-- Atomic, being nothing but its answer.
return { 'pong' }
