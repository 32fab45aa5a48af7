# frozen_string_literal: true

# The smallest function: what a template loads to rehearse a start, so that its clones inherit the path to a handler
# ready. It never runs for a caller.
class Rehearsal
  def self.main(event:, context:)
    event
  end
end
