-- Sends each radiograph that comes in to the gateway. Results are not sent on: the gateway would
-- know and ignore its own, but there is no need to carry them.
-- `false` keeps DumpJson from turning numbers into text, of which Orthanc would say nothing.

local RADIOGRAPHS = { CR = true, DX = true }

function OnStoredInstance(id, tags, metadata, origin)
  if RADIOGRAPHS[tags['Modality']] then
    local body = { Resources = { id }, Synchronous = false }
    RestApiPost('/modalities/gateway/store', DumpJson(body, false))
  end
end
